"""Counts a log for the counters of a schema: the numbers as of each impression."""
