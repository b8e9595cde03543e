"""Draws impressions of a part, so that a diagnosis costs the same for any size of data."""

from dataclasses import fields, replace

import numpy as np

from models.data.cache import Data, Part


def drawn(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of `n` places, in order, int64 `[m]`; the same for the same seed."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng([23, seed]).choice(n, most, replace=False))


def sampled(data: Data, part: str, most: int, seed: int) -> Data:
    """The data with at most `most` impressions in a part."""
    picked = drawn(len(data.parts[part]), most, seed)
    return replace(data, parts={**data.parts, part: selection(data.parts[part], picked)})


def selection(part: Part, picked: np.ndarray) -> Part:
    """The impressions at `picked` int64 `[m]`."""
    columns = {field.name: getattr(part, field.name) for field in fields(part)}
    return replace(part, **{name: values[picked] for name, values in columns.items() if values is not None})
