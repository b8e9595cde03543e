"""Measures how cost grows with the number of embedding rows: training, publishing, serving."""
