"""Reads rankings' rows from Redis on connections of our own."""
