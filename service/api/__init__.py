"""Owns the HTTP surface: what comes in is checked here, what goes out is written here, and nothing else is decided here."""
