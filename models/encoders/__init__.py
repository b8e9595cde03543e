"""Owns the sequence encoders: how a user's behaviours become one vector."""
