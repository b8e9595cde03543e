"""Joins exposures, impressions and events into training tables with features as they were served."""
