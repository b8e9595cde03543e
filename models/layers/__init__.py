"""Owns the layers that two or more papers share."""
