"""Lists of known-bad files and frames in the exchange formats of the field."""
