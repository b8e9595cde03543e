"""Embeds a batch: groups of features, dense vectors, numbers in pieces, and shortened sequences."""
