"""Observes answered rankings: the canary watch, the shadow version, and the background work that both use."""
