"""Packs raw values into rows: items, users, contexts, candidates and behaviours."""
