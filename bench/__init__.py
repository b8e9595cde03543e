"""Owns the benchmark: what a ranking costs in CPU time beside the model itself, and beside what others do."""
