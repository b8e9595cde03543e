"""Scores a run's impressions offline, and compares them with a running service."""
