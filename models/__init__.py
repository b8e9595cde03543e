"""The offline part: recipes, models, training, metrics. It never imports the service."""
