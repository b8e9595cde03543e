"""Writes a quality report: the document, the page with its pictures, and the gauges."""
