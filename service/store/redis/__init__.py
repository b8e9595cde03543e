"""The feature store in Redis."""
