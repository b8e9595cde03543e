"""Makes encoded impressions over a vocabulary of any size, without tables: what training reads, of random rows."""

from pathlib import Path
from typing import Any

import numpy as np

from features import RowLayout
from models.data.cache import Behaviours, Data, Part
from models.data.encoding.encoding import GROUPS, Encoding, NumericStats, log1p_columns, no_edges
from models.data.encoding.vocabulary import Vocabulary, behaviour_column_vocabularies, vocabulary_names
from models.recipe import Recipe, parse_recipe

LENGTH = 20  # behaviours of an impression
SMALL = 50  # values of a feature that is no id
IDS = ("user_id", "item_id", "author_id")
# Shares of the table's rows: users, items, authors.
SHARES = {"user_id": 0.5, "item_id": 0.45, "author_id": 0.05}

_RECIPE: dict[str, Any] = {
    "name": "scale",
    "description": "Click and like over ids of users, items and authors, for the scale benchmark",
    "data": {"dir": "", "split": {"by": "column", "column": "part"}},
    "features": {
        "user": [
            {"name": "user_id", "type": "categorical"},
            {"name": "city", "type": "categorical"},
            {"name": "age", "type": "numeric"},
        ],
        "item": [
            {"name": "item_id", "type": "categorical"},
            {"name": "author_id", "type": "categorical"},
            {"name": "topic", "type": "categorical"},
            {"name": "length", "type": "numeric"},
        ],
        "context": [{"name": "tab", "type": "categorical"}],
        "behaviour": {"max_length": LENGTH, "item_features": ["item_id", "author_id"], "scene_vocabulary": "tab"},
    },
    "tasks": [{"type": "esmm", "click": "click", "conversion": "like"}],
    "model": {"architecture": "mmoe", "trunk": {"type": "mmoe", "experts": 4, "expert_hidden": [128, 64]}},
    "training": {"averaging": 0.995, "gradient_clip": 5.0, "embedding_weight_decay": 0.01},
}


def scale_recipe(dim: int, updates: str, batch_size: int) -> Recipe:
    """The recipe of the benchmark: ESMM over a mixture of experts, mean pooling of 20 behaviours."""
    recipe = dict(_RECIPE)
    recipe["model"] = recipe["model"] | {"embedding": {"dim": dim}}
    recipe["training"] = recipe["training"] | {"embedding_updates": updates, "batch_size": batch_size}
    return parse_recipe(recipe, "the scale benchmark")


def scale_data(recipe: Recipe, rows: int, impressions: int, seed: int) -> Data:
    """Return `impressions` random impressions over a table of `rows` rows.

    Every impression has a user of its own, drawn evenly; items and authors follow Zipf's law with exponent 1, as in
    logs. Behaviours are neighbours in a stream of random items.
    """
    rng = np.random.default_rng(seed)
    schema = recipe.features
    names = vocabulary_names(schema)
    ids = rows - 1 - len(names)
    vocabulary = Vocabulary(
        np.arange(1, ids + 1, dtype=np.int64),
        np.arange(1 + len(names), rows, dtype=np.int32),
        {name: 1 + i for i, name in enumerate(names)},
    )
    numerics = {group: _plain_stats(len(log1p_columns(schema, group))) for group in GROUPS}
    drawn = _Rows(rng, ids, 1 + len(names))
    # One user, one item and one context per impression.
    groups = {}
    for group in ("user", "item", "context"):
        columns = [f.name for f in schema.group(group) if f.type == "categorical"]
        numbers = RowLayout(schema.group(group)).numeric_width
        groups[group] = (
            np.stack([drawn.of(name, impressions) for name in columns], 1),
            rng.normal(size=(impressions, numbers)).astype(np.float32),
        )
    events = impressions + LENGTH + 1
    behaviour_columns = behaviour_column_vocabularies(schema)
    behaviours = Behaviours(
        rows=np.stack([drawn.of(name, events) for name in behaviour_columns], 1),
        numerics=np.zeros((events, 0), dtype=np.float32),
        time=np.full(events, 1_700_000_000_000),
    )
    start = rng.integers(1, impressions, impressions)
    labels = (rng.random((impressions, 2)) < 0.3).astype(np.float32)
    labels[:, 1] *= labels[:, 0]
    every = np.arange(impressions, dtype=np.int32)
    nothing = (np.zeros((impressions, 0), dtype=np.int32), np.zeros((impressions, 0), dtype=np.float32))
    part = Part(
        user=every,
        item=every,
        time=np.full(impressions, 1_700_000_100_000),
        request=None,
        start=start,
        end=start + LENGTH,
        context_rows=groups["context"][0],
        context_numerics=groups["context"][1],
        candidate_rows=nothing[0],
        candidate_numerics=nothing[1],
        derived_rows=nothing[0],
        derived_numerics=nothing[1],
        labels=labels,
        position=None,
        position_cross=None,
    )
    return Data(
        recipe,
        Encoding(schema, vocabulary, numerics),
        *groups["user"],
        *groups["item"],
        behaviours,
        {"train": part},
        0,
        Path(),
        {"hash": f"{rows} rows"},
    )


def _plain_stats(columns: int) -> NumericStats:
    return NumericStats(np.zeros(columns, np.float32), np.ones(columns, np.float32), no_edges(columns))


class _Rows:
    """Draws embedding rows int32 by vocabulary: ids from their share of the table, other features from few values."""

    def __init__(self, rng: np.random.Generator, ids: int, first: int) -> None:
        self.rng = rng
        self.first = first
        self.starts: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        start = 0
        for name, share in SHARES.items():
            self.starts[name] = start
            self.counts[name] = max(1, int(share * ids))
            start += self.counts[name]

    def of(self, name: str, n: int) -> np.ndarray:
        """Rows int32 `[n]` of the vocabulary `name`."""
        if name not in self.counts:
            return (self.first + self.rng.integers(0, SMALL, n)).astype(np.int32)
        count = self.counts[name]
        if name == "user_id":
            rank = self.rng.integers(0, count, n)
        else:
            # Zipf's law with exponent 1: the logarithm of the rank is even.
            rank = np.exp(self.rng.random(n) * np.log(count)).astype(np.int64)
        # Frequent ids are anywhere in the table, as keys are hashes.
        scattered = (rank * 2_654_435_761) % count
        return (self.first + self.starts[name] + scattered).astype(np.int32)
