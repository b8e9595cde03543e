"""Rows on disk between two steps of encoding: the arrays of a file, and rows that are sorted into buckets."""
