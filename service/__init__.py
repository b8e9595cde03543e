"""Owns the online half: the HTTP service that ranks. Never imports torch."""
