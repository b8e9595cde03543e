"""Draws impressions of a part, so that the cost of a diagnosis does not depend on the size of the data."""

from dataclasses import fields, replace

import numpy as np

from models.data.cache import Data, Part


def drawn(n: int, most: int, seed: int) -> np.ndarray:
    """Draw at most `most` of `n` indices, in order, int64 `[m]`; the same seed draws the same indices."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng([23, seed]).choice(n, most, replace=False))


def sampled(data: Data, part: str, most: int, seed: int) -> Data:
    """Return the data with at most `most` impressions in a part."""
    picked = drawn(len(data.parts[part]), most, seed)
    return replace(data, parts={**data.parts, part: selection(data.parts[part], picked)})


def selection(part: Part, picked: np.ndarray) -> Part:
    """Select the impressions at `picked` int64 `[m]`."""
    columns = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: values[picked] for name, values in columns.items() if values is not None})
