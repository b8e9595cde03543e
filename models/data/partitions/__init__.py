"""Encodes each file of a table by itself, on all cores and once: a finished file is not encoded again."""
