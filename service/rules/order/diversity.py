"""Orders candidates so that neighbours differ: MMR, DPP and SSD, each greedy on unit vectors.

Shapes: `scores` float64 `[C]`, `vectors` float64 `[C, D]`. Every function chooses the places of the `depth` first
candidates, one after the other. The first is always the one with the highest score; ties keep the order of the request.
"""

from collections.abc import Callable, Generator, Iterator, Mapping

import numpy as np

_SMALLEST_GAIN = 1e-10
_NUMBERS = 1_500_000  # read between two pauses, about a millisecond
_STEP = 20_000  # what a step costs beside them
Method = Callable[[np.ndarray, np.ndarray, float, int, int], Iterator[int]]


def mmr(scores: np.ndarray, vectors: np.ndarray, weight: float, depth: int, _window: int = 0) -> Iterator[int]:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998):

    `argmax (1 - w) s_i - w max_j cos(v_i, v_j)` over those chosen.
    """
    relevance = (1 - weight) * scaled(scores)
    unit = unit_vectors(vectors)
    # Row by row, so that the memory does not grow with the square of the candidates.
    nearest = np.full(len(scores), -np.inf)
    # With weight 1 relevance is 0 for all, and the first is still the one with the highest score.
    gain = scaled(scores)
    for _ in range(min(depth, len(scores))):
        best = int(gain.argmax())
        yield best
        relevance[best] = -np.inf
        np.maximum(nearest, unit @ unit[best], out=nearest)
        np.multiply(nearest, -weight, out=gain)
        gain += relevance


def dpp(scores: np.ndarray, vectors: np.ndarray, weight: float, depth: int, _window: int = 0) -> Iterator[int]:
    """Greedy MAP inference of a determinantal point process (Chen et al., NeurIPS 2018, algorithm 1).

    The kernel is `L = diag(q) S diag(q)` with `q = exp(a s / 2)`, `a = (1 - w) / w` and `S` the cosines, so that
    `log det L_Y = a sum s_i + log det S_Y`. Ends where no candidate adds to the determinant. A candidate without a
    vector adds its quality alone, as if its vector were orthogonal to every other.
    """
    if weight == 0:
        yield from by_score(scaled(scores), depth)
        return
    # q would overflow for a small weight. A factor of a candidate's row in L is one of its row in the Cholesky factor,
    # so S is factored in place of L, and `w log(q_i^2 d_i) = (1 - w) s_i + w log d_i` is compared.
    relevance = (1 - weight) * scaled(scores)
    unit = unit_vectors(vectors)
    rest = squares_of(unit)  # d_i, what a candidate adds to det S_Y
    count = min(depth, len(scores))
    factors = np.zeros((count, len(scores)))  # the rows c_i of the paper's Cholesky factor, one column per candidate
    chosen: list[int] = []
    for step in range(count):
        adds = rest >= _SMALLEST_GAIN
        if not adds.any():
            break
        gains = relevance + weight * np.log(np.maximum(rest, _SMALLEST_GAIN)) if step or weight < 1 else scaled(scores)
        best = int(np.argmax(np.where(adds, gains, -np.inf)))
        row = (unit @ unit[best] - factors[:step].T @ factors[:step, best]) / np.sqrt(rest[best])
        factors[step] = row
        rest = rest - row**2
        chosen.append(best)
        rest[chosen] = 0.0
        yield best


def ssd(scores: np.ndarray, vectors: np.ndarray, weight: float, depth: int, window: int = 10) -> Iterator[int]:
    """Sliding spectrum decomposition (Huang et al., KDD 2021, algorithm 1): `argmax (1 - w) s_i + w vol |v_i'|`.

    `v_i'` is what of the candidate's vector is orthogonal to the last `window - 1` chosen ones, `vol` the volume that
    those span. A vector of zeros counts as orthogonal to every other.
    """
    relevance = (1 - weight) * scaled(scores)
    unit = unit_vectors(vectors)
    squares = squares_of(unit)
    chosen: list[int] = []
    for _ in range(min(depth, len(scores))):
        basis, volume = _basis_of(unit[chosen[-(window - 1) :]]) if chosen else (np.zeros((0, unit.shape[1])), 1.0)
        # The length of the part orthogonal to a basis follows from the lengths of the whole vector and of the part
        # inside it.
        inside = unit @ basis.T
        rest = np.sqrt(np.maximum(squares - np.einsum("ck,ck->c", inside, inside), 0.0))
        gain = relevance + weight * volume * rest
        if not chosen:
            gain = relevance if weight < 1 else scaled(scores)
        gain = gain.copy()
        gain[chosen] = -np.inf
        chosen.append(int(np.argmax(gain)))
        yield chosen[-1]


METHODS: Mapping[str, Method] = {"mmr": mmr, "dpp": dpp, "ssd": ssd}


def diversified(
    scores: np.ndarray, vectors: np.ndarray, method: str, weight: float, depth: int, window: int
) -> Generator[None, None, list[int]]:
    """Return all positions: the first `depth` as the method chooses them, the rest by score. Yields about every
    millisecond.

    Missing numbers in a vector count as 0.
    """
    finite = np.where(np.isfinite(scores), scores, np.min(scores, initial=0.0, where=np.isfinite(scores)))
    until_pause = _NUMBERS
    chosen: list[int] = []
    for best in METHODS[method](finite, np.nan_to_num(vectors), weight, depth, window):
        chosen.append(best)
        # A step of DPP reads the rows of all chosen candidates; a step of SSD computes a basis of its window.
        width = vectors.shape[1] + (len(chosen) if method == "dpp" else 0)
        until_pause -= len(scores) * width + _STEP * (window if method == "ssd" else 1)
        if until_pause <= 0:
            until_pause = _NUMBERS
            yield
    return with_rest(chosen, scores, len(scores))


def scaled(scores: np.ndarray) -> np.ndarray:
    """Scale the scores of a list to 0 .. 1, so that the effect of a weight does not depend on their unit."""
    low = scores.min(initial=np.inf)
    high = scores.max(initial=-np.inf)
    if not high > low:
        return np.zeros(len(scores))
    return np.asarray((scores - low) / (high - low))


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays one, and differs from everything."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.zeros_like(vectors, dtype=np.float64)
    np.divide(vectors, lengths, out=unit, where=lengths > 0)
    return unit


def squares_of(unit: np.ndarray) -> np.ndarray:
    """The squared lengths of unit vectors `[C]`: 1 for a row of zeros too, which differs from everything."""
    squares = np.einsum("cd,cd->c", unit, unit)
    squares[squares == 0.0] = 1.0
    return np.asarray(squares)


def by_score(scores: np.ndarray, depth: int) -> list[int]:
    """Places by score, best first; ties and NaN, which come last, keep their order."""
    comparable = np.where(np.isfinite(scores), scores, -np.inf)
    order: list[int] = np.argsort(-comparable, kind="stable")[:depth].tolist()
    return order


def with_rest(chosen: list[int], scores: np.ndarray, count: int) -> list[int]:
    """`chosen`, then the best others up to `count`."""
    chosen_places = set(chosen)
    rest = [place for place in by_score(scores, len(scores)) if place not in chosen_places]
    return [*chosen, *rest][:count]


def _basis_of(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """An orthonormal basis `[k, D]` of rows `[n, D]` and the volume that they span, 0 if one depends on the others.

    A row of zeros stands for a unit vector that is orthogonal to all others, and so changes neither.
    """
    basis = np.zeros((0, rows.shape[1]))
    volume = 1.0
    for row in rows[rows.any(axis=1)]:
        rest = row - (basis @ row) @ basis
        length = float(np.linalg.norm(rest))
        volume *= length
        if length > _SMALLEST_GAIN:
            basis = np.vstack([basis, rest / length])
    return basis, volume
