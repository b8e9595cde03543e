"""Writes the reports of a run, of a benchmark and of an event log."""
