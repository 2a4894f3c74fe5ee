"""Fusion: three embeddings in, seven category scores and the seconds that drive them out."""
