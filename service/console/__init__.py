"""Holds the built files of the console, which the service gives out at `/console/`. Their source is `console/`."""
