"""MMR, DPP and SSD as naive loops in float64: cosines pair by pair, determinants, volumes by Gram matrices."""

import numpy as np


def scaled(scores: np.ndarray) -> np.ndarray:
    return np.asarray((scores - scores.min()) / (scores.max() - scores.min()))


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.array([row / np.sqrt(sum(x * x for x in row)) for row in vectors])


def naive_mmr(scores: np.ndarray, vectors: np.ndarray, weight: float, depth: int) -> list[int]:
    relevance = scaled(scores)
    rows = unit(vectors)
    chosen = [int(np.argmax(scores))]
    while len(chosen) < depth:
        gains = {}
        for i in range(len(scores)):
            if i not in chosen:
                nearest = max(float(np.dot(rows[i], rows[j])) for j in chosen)
                gains[i] = (1 - weight) * relevance[i] - weight * nearest
        chosen.append(max(gains, key=gains.__getitem__))
    return chosen


def naive_dpp(scores: np.ndarray, vectors: np.ndarray, weight: float, depth: int) -> list[int]:
    """The greedy choice, computed by determinants of the whole kernel."""
    quality = np.exp((1 - weight) / weight * scaled(scores) / 2)
    rows = unit(vectors)
    kernel = quality[:, None] * (rows @ rows.T) * quality[None, :]
    chosen: list[int] = []
    while len(chosen) < depth:
        left = [i for i in range(len(scores)) if i not in chosen]
        determinants = {i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]) for i in left}
        chosen.append(max(determinants, key=determinants.__getitem__))
    return chosen


def naive_ssd(scores: np.ndarray, vectors: np.ndarray, weight: float, depth: int, window: int) -> list[int]:
    """The gain is the volume of the window with the candidate, by the determinant of its Gram matrix."""
    relevance = scaled(scores)
    rows = unit(vectors)
    chosen = [int(np.argmax(scores))]
    while len(chosen) < depth:
        last = chosen[-(window - 1) :]
        gains = {}
        for i in range(len(scores)):
            if i not in chosen:
                span = rows[[*last, i]]
                volume = np.sqrt(max(np.linalg.det(span @ span.T), 0.0))
                gains[i] = (1 - weight) * relevance[i] + weight * volume
        chosen.append(max(gains, key=gains.__getitem__))
    return chosen
