"""Owns the known-truth simulators: worlds whose probabilities are known, on which a paper's claim can be seen to hold or not."""
