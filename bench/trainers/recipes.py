"""The recipes that are compared, and their encoded data in the form of the exchange."""

import os
from pathlib import Path

import numpy as np
import torch

from bench.trainers.exchange import PARTS, EncodedInputs, EncodedPart
from models.data.cache import Data, labels_of, lists_of, open_data
from models.data.encoding.encoding import Encoding, log1p_columns
from models.network.embedding.groups import Numerics
from models.recipe import Recipe, load_recipe

MODELS = ("mmoe", "ple", "esmm")
CACHE = Path("runs/cache")
_RECIPES = Path(os.path.relpath(Path(__file__).parents[2] / "models" / "recipes"))
_GROUPS = ("user", "context", "item")
_QUANTILES = 20
# No model of the peers reads the behaviour sequence as ours do, so none is compared with it.
_WITHOUT_BEHAVIOURS = ("features.behaviour=null", "model.encoders=[]", "extra_evaluations=[]")
_TASKS = (("pclick", "is_click"), ("plong_view", "long_view"), ("plike", "is_like"))
_THREE_TASKS = (
    "tasks=[" + ", ".join(f"{{type: independent, name: {n}, label: {label}}}" for n, label in _TASKS) + "]",
    "training.select_on=[gauc(pclick)]",
)
_SETTINGS = {
    "mmoe": ("kuairand-mmoe-din.yaml", _THREE_TASKS),
    "ple": ("kuairand-ple.yaml", _THREE_TASKS),
    "esmm": ("kuairand-esmm.yaml", ("model.tower_hidden=[128, 64]",)),
}
# The columns whose product is each label.
LABELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mmoe": (("is_click",), ("long_view",), ("is_like",)),
    "ple": (("is_click",), ("long_view",), ("is_like",)),
    "esmm": (("is_click",), ("is_click", "is_like")),
}


def compared_recipe(model: str, seed: int = 1, epochs: int = 3, further: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe of a model without behaviours, with the labels of `LABELS` and `further` settings."""
    file, overrides = _SETTINGS[model]
    training = (f"training.seed={seed}", f"training.epochs={epochs}")
    return load_recipe(_RECIPES / file, (*_WITHOUT_BEHAVIOURS, *overrides, *training, *further))


def opened(model: str, seed: int = 1, epochs: int = 3, further: tuple[str, ...] = ()) -> Data:
    """Open the data of a model's recipe."""
    return open_data(compared_recipe(model, seed, epochs, further), CACHE)


def encoded_inputs(data: Data, labels: tuple[tuple[str, ...], ...]) -> EncodedInputs:
    """Return what our models read, with embedding rows numbered anew from 0 in every column."""
    keys = {part: _keys(data, part) for part in PARTS}
    raw = {part: _raw_numerics(data, part) for part in PARTS}
    columns = keys["train"].shape[1]
    # The rows that occur in any part: an id that training lacks has the row of unknown values already.
    values = [np.unique(np.concatenate([keys[part][:, i] for part in PARTS])) for i in range(columns)]
    edges = [_edges(raw["train"][:, i]) for i in range(raw["train"].shape[1])]
    parts = {}
    for part in PARTS:
        numbered = [np.searchsorted(values[i], keys[part][:, i]) for i in range(columns)]
        bins = [_bins(raw[part][:, i], edges[i]) for i in range(len(edges))]
        parts[part] = EncodedPart(
            keys=np.stack(numbered, axis=1).astype(np.int32),
            numerics=_standardised(data.encoding, raw[part]),
            bins=np.stack(bins, axis=1).astype(np.int32),
            labels=np.stack([labels_of(data, part, label) for label in labels], axis=1),
            groups=np.asarray(lists_of(data.parts[part])).astype(np.int64),
        )
    key_sizes = tuple(len(of_column) for of_column in values)
    bin_sizes = tuple(len(of_column) + 2 for of_column in edges)
    return EncodedInputs(parts, key_sizes, bin_sizes, tuple(" AND ".join(label) for label in labels))


def _keys(data: Data, name: str) -> np.ndarray:
    """The embedding rows of users, context and items `[n, K]`."""
    part = data.parts[name]
    rows = (data.user_rows.take(part.user, axis=0), part.context_rows, data.item_rows.take(part.item, axis=0))
    return np.concatenate(rows, axis=1)


def _raw_numerics(data: Data, name: str) -> np.ndarray:
    """The numbers of users, context and items `[n, N]`, NaN where missing."""
    part = data.parts[name]
    of_user = data.user_numerics.take(part.user, axis=0)
    of_item = data.item_numerics.take(part.item, axis=0)
    return np.concatenate((of_user, part.context_numerics, of_item), axis=1)


def _standardised(encoding: Encoding, raw: np.ndarray) -> np.ndarray:
    """The numbers as our networks scale them before training; what is missing is 0."""
    pieces = []
    begin = 0
    for group in _GROUPS:
        stats = encoding.numerics[group]
        width = len(stats.mean)
        if width:
            scaled = Numerics(stats, log1p_columns(encoding.schema, group))
            with torch.no_grad():
                pieces.append(scaled(torch.from_numpy(raw[:, begin : begin + width])).numpy())
        begin += width
    return np.concatenate(pieces, axis=1).astype(np.float32)


def _edges(raw: np.ndarray) -> np.ndarray:
    """The quantiles of the present training values."""
    return np.unique(np.quantile(raw[~np.isnan(raw)], np.arange(1, _QUANTILES) / _QUANTILES))


def _bins(raw: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(raw), 0, np.searchsorted(edges, raw, side="right") + 1)
