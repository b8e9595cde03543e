"""Chooses the impressions that a run trains on, if it keeps a share of those without a positive label."""

from collections.abc import Sequence

import numpy as np

from models.data.encoding.variation import mixed
from models.recipe import Recipe, RecipeError

_CHUNK = 1 << 20
_HASHES = 2.0**64


def trained_rows(recipe: Recipe, labels: np.ndarray, ids: Sequence[np.ndarray]) -> np.ndarray | None:
    """The impressions of the training part that are trained on, int64 `[m]`, ascending; None if all are.

    `labels` `[n, labels]` in the order of the recipe; `ids` are the users, items and times, `[n]` each.
    One with a positive label always is; another one if a hash of its user, item and time and of the recipe's seed lies
    within the share. So they are the same ones in every epoch, process and resumed run. Raises RecipeError if none of
    the negatives is kept: the weights of the others cannot stand for them, and every probability would learn 1.
    """
    if recipe.training.negative_sampling == 1:
        return None
    chunks = (slice(begin, begin + _CHUNK) for begin in range(0, len(labels), _CHUNK))
    of_chunks = [_positive_and_trained(recipe, labels[chunk], [each[chunk] for each in ids]) for chunk in chunks]
    is_positive, is_trained = (np.concatenate(columns) for columns in zip(*of_chunks, strict=True))
    negatives = int(np.count_nonzero(~is_positive))
    if negatives and not (is_trained & ~is_positive).any():
        share = recipe.training.negative_sampling
        problem = f"none of the {negatives:,} impressions without a positive label is kept at a share of {share:g}"
        advice = "the training part is too small for it"
        raise RecipeError(f"training.negative_sampling: {problem}; {advice}", ("training",), "negative_sampling")
    return np.flatnonzero(is_trained)


def _positive_and_trained(
    recipe: Recipe, labels: np.ndarray, ids: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each impression of a chunk has a positive label, and whether it is trained on, bool `[n]` each."""
    columns = [recipe.label_columns.index(column) for column in recipe.binary_columns]
    positive = np.any(labels[:, columns] > 0, axis=1)
    number = mixed(np.full(len(positive), recipe.training.seed, dtype=np.uint64))
    for numbers in ids:
        number = mixed(number ^ numbers.astype(np.int64).view(np.uint64))
    return positive, positive | (number < recipe.training.negative_sampling * _HASHES)
