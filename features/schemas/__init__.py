"""The feature schema and its parts: derived features, counters, features of rules."""
