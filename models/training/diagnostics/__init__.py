"""Puts a run's figures into context: training metrics, baselines, coverage and drift of features, ablation."""
