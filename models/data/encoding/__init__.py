"""Encodes tables: the vocabulary and scaling fitted on the training part, and the encoded rows and columns."""
