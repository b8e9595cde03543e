"""Traces of requests: their ids, their stages, and their way to an OTLP endpoint."""
