"""Owns the trunks: what lies between the shared embeddings and each head's tower."""
