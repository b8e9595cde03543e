"""References for a run's figures: training metrics, baselines, coverage and drift of features, ablation."""
