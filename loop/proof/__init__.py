"""Proofs over the exposure log: a request ranked again, and logged rows computed again."""
