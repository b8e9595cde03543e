"""Owns the offline half: recipes, models, training, metrics. Never imports the service."""
