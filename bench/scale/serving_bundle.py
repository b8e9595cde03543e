"""Makes bundles with tables of any size, of random weights, for the scale benchmark.

The table is written to a file piece by piece and mapped, so that a bundle of any size can be made with little memory,
as one that was trained on another machine.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.scale.serving_processes import source_table
from bench.scale.synthetic import scale_recipe
from export.bundle import publish_run
from export.graph import ServingGraph
from features import key_of
from features.keys import sorted_distinct
from models.data.encoding.encoding import GROUPS, Encoding, NumericStats, log1p_columns, no_edges
from models.data.encoding.vocabulary import (
    MISSING_ROW,
    Vocabulary,
    behaviour_column_vocabularies,
    key_column_vocabularies,
    vocabulary_names,
)
from models.network.build import build_model
from models.recipe import Recipe
from models.training.run import Run
from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout

HOT_ITEMS = 1000  # items by the ids 0, 1, 2, ..., which requests over HTTP name
_KEPT = 512
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Made:
    """A published bundle, and keys that its table has rows for: int64 `[n]`, of ids."""

    folder: Path
    known: np.ndarray


def scale_vocabulary(recipe: Recipe, keys: int) -> Vocabulary:
    """Return `keys` random keys, with those of the hot items among them. Keys are hashes, so they are evenly spread."""
    rng = np.random.default_rng(keys)
    hot = [key_of("item_id", str(i)) for i in range(HOT_ITEMS)]
    drawn = rng.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, keys - len(hot))
    distinct = sorted_distinct(np.concatenate([np.array(hot, np.int64), drawn]))
    names = vocabulary_names(recipe.features)
    rows = np.arange(1 + len(names), 1 + len(names) + len(distinct), dtype=np.int32)
    return Vocabulary(distinct, rows, {name: 1 + i for i, name in enumerate(names)})


def publish_scale(registry: Path, version: str, keys: int, dim: int) -> Made:
    """Publish a bundle with this number of keys, live in its registry."""
    recipe = scale_recipe(dim, "dense", 1024)
    vocabulary = scale_vocabulary(recipe, keys)
    schema = recipe.features
    numerics = {g: _plain_stats(len(log1p_columns(schema, g))) for g in GROUPS}
    # The network is built over a small table, which is then exchanged for the mapped one.
    few = Vocabulary(vocabulary.keys[:1], vocabulary.rows[:1], vocabulary.unknown_rows)
    torch.manual_seed(1)
    ranker = build_model(recipe, Encoding(schema, few, numerics)).eval()
    table = _mapped_table(source_table(registry, version), vocabulary.n_rows, dim, int(version))
    ranker.inputs.table = nn.Embedding.from_pretrained(table, padding_idx=MISSING_ROW)
    encoding = Encoding(schema, vocabulary, numerics)
    provenance = {"data": {"hash": f"{keys} keys"}, "recipe": recipe.model_dump(mode="json")}
    rows = kept_rows(ServingGraph(ranker, Encoding(schema, few, numerics)), vocabulary.keys)
    run = Run(recipe, encoding, ranker, rows, {}, provenance, b"<!doctype html><title>scale</title>")
    published = publish_run(run, registry, version)
    write_rollout(registry, Target(name=recipe.name, version=version), "bench")
    return Made(published.folder, vocabulary.keys)


def _mapped_table(path: Path, rows: int, dim: int, seed: int) -> torch.Tensor:
    """A table of random rows in a file, mapped; the missing row is zero."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, rows, _ROWS_AT_ONCE):
            part = rng.standard_normal((min(_ROWS_AT_ONCE, rows - start), dim), np.float32) * np.float32(0.05)
            if start == 0:
                part[MISSING_ROW] = 0
            file.write(part.data)
    return torch.from_numpy(np.memmap(path, np.float32, "r+", shape=(rows, dim)))


def _plain_stats(columns: int) -> NumericStats:
    return NumericStats(np.zeros(columns, np.float32), np.ones(columns, np.float32), no_edges(columns))


def kept_rows(graph: ServingGraph, known: np.ndarray) -> dict[str, np.ndarray]:
    """Raw rows of random known keys and numbers, by graph input."""
    rng = np.random.default_rng(5)
    schema = graph.schema
    widths = {g: len(key_column_vocabularies(schema.group(g))) for g in ("user", "context", "item")}
    widths["behaviour"] = len(behaviour_column_vocabularies(schema))
    rows = {f"{g}_keys": known[rng.integers(len(known), size=(_KEPT, n))] for g, n in widths.items()}
    for group in ("user", "item"):
        rows[f"{group}_numerics"] = rng.normal(size=(_KEPT, 1)).astype(np.float32)
    times = 1_700_000_000_000 + rng.integers(0, 1_000_000, _KEPT)
    return rows | {"behaviour_times": times, "request_time": np.full(_KEPT, times.max() + 1000)}
