"""Sequence encoders: how the behaviours of a user become one vector. One paper is one file."""
