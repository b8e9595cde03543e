"""Writes files whole or not at all; reads JSON and YAML strictly."""
