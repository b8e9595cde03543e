"""Owns the way from a public data set's original files to the canonical tables that training and the Redis loader read."""
