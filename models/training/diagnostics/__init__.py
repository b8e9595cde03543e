"""What a run's figures are held against: training metrics, baselines, coverage and drift of features, ablation."""
