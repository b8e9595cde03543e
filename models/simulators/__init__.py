"""Known-truth simulators: worlds whose probabilities are known, on which the claim of a paper can be tested."""
