"""One ranking, from a checked request to ordered candidates."""
