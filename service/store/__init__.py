"""Owns the feature store in Redis: key names, reading for a ranking, writing, bulk load and inspection."""
