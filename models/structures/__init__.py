"""Owns the task structures: how heads' logits become task scores, and which label each score learns from."""
