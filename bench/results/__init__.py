"""Targets, printed report and plot of the benchmark."""
