"""Known-truth simulators: generated data with known probabilities, on which the claim of a paper can be tested."""
