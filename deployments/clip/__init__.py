"""The visual node: uint8 frames in, one vector a frame out. Which model does it is a setting (`registry.py`)."""
