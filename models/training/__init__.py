"""Owns the pieces of the training loop: optimisation, evaluation, selection, checkpoints, reading speed."""
