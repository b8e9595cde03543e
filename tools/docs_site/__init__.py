"""Builds the docs site and checks its links: `make docs`."""
