"""Reads the rows of rankings from Redis, on connections with a protocol implementation of our own."""
