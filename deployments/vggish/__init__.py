"""The sound node: 16 kHz mono sound in, one 128-d vector for each 0.96 s of it out."""
