"""Similarity search: recall against speed and bytes, tails under writes, recovery."""
