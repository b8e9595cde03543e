"""The servers and scorers that the benchmark compares."""
