"""Graphs in reduced precision: how they are made, measured and reported."""
