"""Makes training batches of canonical tables: read, encode once into memory-mapped arrays, gather."""
