"""Scores by the graph: a chunk at a time, in FIFO order, and with less work in a brown-out."""
