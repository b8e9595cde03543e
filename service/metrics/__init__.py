"""Prometheus metrics and the status files of the workers."""
