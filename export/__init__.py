"""The bridge: turns a trained run into a verified model bundle."""
