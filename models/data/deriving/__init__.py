"""Derived features: computed by torch, for training once per impression and for serving in the graph."""
