"""Makes training batches from canonical tables: reads and encodes them once into memory-mapped arrays, then gathers."""
