"""Partitions of one root directory: their catalog, their generations, who may use or change them when."""
