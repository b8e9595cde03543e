"""The bridge: a trained run becomes a verified model bundle."""
