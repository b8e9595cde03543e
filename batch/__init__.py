"""Ranks many users at once, with the code, versions, fusion and rules of the online service."""
