"""Writes to Redis while serving: the writer and its scripts."""
