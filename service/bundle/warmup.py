"""Warms a bundle up: scores requests of every size once, before the first request of a caller."""

from collections.abc import Callable

import numpy as np

from service.bundle.manifest import Manifest

CANDIDATES = (1, 20, 200)
_DTYPES = {"int64": np.int64, "float32": np.float32}


def warm(
    score: Callable[[dict[str, np.ndarray]], np.ndarray], manifest: Manifest, max_behaviours: int, largest: int
) -> None:
    """Score once per candidate count and behaviour length, so that ONNX Runtime allocates its memory beforehand.

    `largest` is the highest number of candidates scored at once.
    """
    for behaviours in sorted({0, max_behaviours // 5, max_behaviours}):
        for candidates in (*(c for c in CANDIDATES if c < largest), largest):
            axes = {"C": candidates, "L": behaviours}
            inputs = {}
            for spec in manifest.inputs:
                shape = [axes[a] if isinstance(a, str) else a for a in spec.shape]
                inputs[spec.name] = np.zeros(shape, dtype=_DTYPES[spec.dtype])
            score(inputs)
