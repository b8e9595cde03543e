"""Reads the rows of rankings from a Redis Cluster."""
