"""Scores of a run's impressions, offline and as a service gives them."""
