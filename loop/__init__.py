"""The loop: from the log of what was ranked, shown and done to the next model."""
