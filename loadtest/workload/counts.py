"""Draws how many candidates a request has: one number, a range, or a weighted list."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CandidateCounts:
    """Candidate counts and the probability of each; `text` is what the user wrote."""

    text: str
    counts: tuple[int, ...]
    probabilities: tuple[float, ...]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> "CandidateCounts":
        """Reads `200`, `50-500` or `50:0.6,200:0.4`; weights need not add up to 1."""
        try:
            counts, weights = _read(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is none of 200, 50-500 and 50:0.6,200:0.4") from error
        if min(counts, default=0) < 1 or min(weights) <= 0:
            raise ValueError(f"{text!r}: counts and weights must be positive")
        total = sum(weights)
        return cls(text, tuple(counts), tuple(weight / total for weight in weights))

    def draw(self, rng: np.random.Generator) -> int:
        if len(self.counts) == 1:
            return self.counts[0]
        return int(rng.choice(self.counts, p=self.probabilities))


def _read(text: str) -> tuple[list[int], list[float]]:
    if ":" in text:
        pairs = [part.split(":") for part in text.split(",")]
        return [int(count) for count, _ in pairs], [float(weight) for _, weight in pairs]
    low, _, high = text.partition("-")
    counts = list(range(int(low), int(high or low) + 1))
    return counts, [1.0] * len(counts)
