"""The requests of a load test."""
