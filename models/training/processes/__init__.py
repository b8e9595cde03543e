"""Trains one run in several processes: how they start, meet, and exchange losses and gradients."""
