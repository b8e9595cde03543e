"""Owns the way from canonical tables to training batches: read, encode once into memory-mapped arrays, gather."""
