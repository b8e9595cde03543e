"""Measures served predictions against matured labels, and served features against those of training."""
