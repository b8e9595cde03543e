"""Trunks: the layers between the shared embeddings and the towers of the heads. One paper is one file."""
