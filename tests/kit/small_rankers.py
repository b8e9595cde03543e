"""One small ranker per catalogue entry, with random weights and inputs, for tests over the whole catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from export.graph import ServingGraph, graph_inputs
from features import Feature, FeatureSchema, RowLayout, key_of
from features.within_request import WITHIN, ComparedColumns
from models.catalogue import CATALOGUE
from models.data.encoding.encoding import AGE, CANDIDATE, Encoding, NumericStats
from models.data.encoding.vocabulary import (
    Vocabulary,
    behaviour_column_vocabularies,
    key_column_vocabularies,
    vocabulary_names,
)
from models.network.build import build_model
from models.network.model import MultiTaskModel
from models.recipe import Recipe, parse_recipe
from models.structures.statistics import WithStatistics

NOW_MS = 1_650_812_741_436
STEPS = {"pctr": "click", "pctavr": "cart", "pctcvr": "like"}
TASKS = {
    "independent": [
        {"type": "independent", "name": "pctr", "label": "click"},
        {"type": "independent", "name": "plike", "label": "like"},
    ],
    "esmm": [{"type": "esmm", "click": "click", "conversion": "like"}],
    "esm2": [{"type": "esm2", "click": "click", "action": "cart", "conversion": "like"}],
    "conversion_steps": [{"type": "conversion_steps", "steps": [{"name": n, "label": c} for n, c in STEPS.items()]}],
    "escm2": [{"type": "escm2", "click": "click", "conversion": "like"}],
    "dcmt": [{"type": "dcmt", "click": "click", "conversion": "like"}],
}
WATCHED = {"name": "watch_time", "label": "log1p(watch_ms)"}
# The tasks of an entry besides the first of its structures, or instead of it.
TASKS_OF = {
    "d2q": [TASKS["independent"][0], WATCHED | {"type": "d2q", "duration": "price", "groups": 3}],
    "cread": [TASKS["independent"][0], WATCHED | {"type": "cread"}],
    "dupn": [
        *TASKS["independent"],
        {
            "type": "rank_weights",
            "name": "prank",
            "label": "click",
            "features": ["stars", "price"],
            "importance": {"cart": 2.0, "like": 3.0},
        },
        {"type": "class_preference", "name": "pprice", "label": "click", "feature": "price", "edges": [-1.0, 0.0, 1.5]},
    ],
    "youtube2019": [
        *TASKS["independent"],
        WATCHED | {"type": "independent", "kind": "value"},
        {"type": "independent", "name": "rating", "label": "rating", "kind": "value", "space": "like"},
    ],
}
OWN_ENCODER = {name: e.encoder.type for name, e in CATALOGUE.items() if e.encoder.type not in ("pooling", "din")}
FEW_KEYS = {"sim": 4}  # so that behaviours have the category of a candidate
DOMAIN = {"feature": "page", "values": ["home", "search", 3]}  # of the entries that are for several domains
FEATURES = {
    "user_id_feature": "user_id",
    "item_id_feature": "item_id",
    "user": [
        {"name": "user_id", "type": "categorical"},
        {"name": "age", "type": "numeric"},
        {"name": "likes", "type": "multi_categorical", "max_values": 3, "vocabulary": "tag"},
    ],
    "item": [
        {"name": "item_id", "type": "categorical"},
        {"name": "tag", "type": "multi_categorical", "max_values": 2},
        {"name": "shop", "type": "categorical"},
        {"name": "price", "type": "numeric", "transform": "log1p"},
        {"name": "stars", "type": "numeric"},
    ],
    "context": [{"name": "page", "type": "categorical"}, {"name": "hour", "type": "numeric"}],
    "behaviour": {"max_length": 50, "item_features": ["stars", "shop", "tag", "item_id"], "scene_vocabulary": "page"},
}


@dataclass(frozen=True)
class Small:
    recipe: Recipe
    encoding: Encoding
    ranker: MultiTaskModel

    @property
    def graph(self) -> ServingGraph:
        return ServingGraph(self.ranker, self.encoding).eval()


def small(
    architecture: str,
    encoder: str | None = None,
    position: bool | str | dict[str, Any] = False,
    wide: bool = True,
    seed: int = 0,
    tasks: list[dict[str, Any]] | None = None,
    compared: bool = False,
    features: dict[str, Any] | None = None,
    **model: object,
) -> Small:
    """A ranker of that architecture with every kind of feature.

    `wide` draws the weights so that no part hides behind a small one.

    `compared`: the item's numbers are compared within a request. `features` are added to those of the schema.

    Its encoder is DIN, which reads the candidate, unless the architecture has its own encoder or `encoder` names some.
    """
    encoders = [{"type": name} for name in (encoder or OWN_ENCODER.get(architecture, "din")).split("+")]
    raw = {
        "name": f"small-{architecture}",
        "description": "a small ranker for tests",
        "data": {"dir": "nowhere", "split": {"by": "column", "column": "part"}},
        "features": FEATURES,
        "tasks": tasks or TASKS_OF.get(architecture, TASKS[CATALOGUE[architecture].tasks[0]]),
        "model": {
            "architecture": architecture,
            "encoders": encoders,
            "embedding": {"dim": 4, "unknown_rate": 0.0},
            "tower_hidden": [5],
            **model,
        },
    }
    if features:
        raw["features"] = FEATURES | features
    if compared:
        raw["data"]["request_id"] = "request"
        more = {"within_request": True}
        raw["features"] = FEATURES | {"item": [f | (more if f["type"] == "numeric" else {}) for f in FEATURES["item"]]}
    if CATALOGUE[architecture].trunk.needs_domain:
        raw["model"].setdefault("domain", DOMAIN)
    if position:
        head = position if isinstance(position, str) else "pctr"
        raw["position"] = {"column": "position", "cross": "device", "max_position": 10, "head": head}
        if isinstance(position, dict):
            raw["position"] |= position
    recipe = parse_recipe(raw, "test")
    torch.manual_seed(seed)
    encoding = random_encoding(recipe, seed, known=FEW_KEYS.get(architecture, 40))
    ranker = build_model(recipe, encoding, cross_values=3 if position else 0)
    _fit(ranker)
    if wide:
        _widen(ranker)
    return Small(recipe, encoding, ranker.eval())


def _fit(ranker: MultiTaskModel) -> None:
    """Give the tasks with statistics those of labels such as `training_batch` has."""
    rng = np.random.default_rng(0)
    for structure in ranker.structures:
        if isinstance(structure, WithStatistics):
            structure.fit(rng.normal(size=500) ** 2, {name: rng.normal(size=500) for name in structure.numbers})


def _widen(ranker: MultiTaskModel) -> None:
    with torch.no_grad():
        for name, parameter in ranker.named_parameters():
            if parameter.dim() < 2 or "table" in name or "position" in name:
                parameter.normal_(std=0.5)
            else:
                parameter.mul_(1.5)
        ranker.inputs.table.weight[0].zero_()


def random_encoding(recipe: Recipe, seed: int, known: int = 40) -> Encoding:
    rng = np.random.default_rng(seed)
    schema = recipe.features
    names = vocabulary_names(schema)
    keys = np.unique([*rng.integers(-(2**63), 2**63 - 1, known), *domain_keys(recipe), *action_keys(recipe)])
    rows = (1 + len(names) + np.arange(len(keys))).astype(np.int32)
    numerics = {g: _stats(rng, _single_numbers(schema.group(g))) for g in ("user", "context", "item")}
    numerics["behaviour"] = _stats(rng, _single_numbers(schema.behaviour_item_features) + len([AGE]))
    if schema.candidate:
        numerics[CANDIDATE] = _stats(rng, _single_numbers(schema.candidate))
    if width := 2 * len(ComparedColumns.of(schema)):
        numerics[WITHIN] = _stats(rng, width)
    return Encoding(schema, Vocabulary(keys, rows, {n: i + 1 for i, n in enumerate(names)}), numerics)


def domain_keys(recipe: Recipe) -> list[int]:
    """The keys of the recipe's domains, in order."""
    domain = recipe.model.domain
    return [] if domain is None else [key_of(domain.feature, value, domain.feature) for value in domain.values]


def action_keys(recipe: Recipe) -> list[int]:
    """The keys of the actions of the recipe's sequences."""
    actions = {action for sequence in recipe.model.sequences.values() for action in sequence.actions}
    return [key_of("action", action) for action in sorted(actions)]


def _single_numbers(features: Sequence[Feature]) -> int:
    return len(RowLayout(features).numeric_columns)


def _stats(rng: np.random.Generator, n: int) -> NumericStats:
    edges = np.sort(rng.normal(size=(n, 3)), 1).astype(np.float32)
    edges[1::2] = np.inf  # every other column is without bins
    return NumericStats(rng.normal(size=n).astype(np.float32), rng.uniform(0.5, 2, n).astype(np.float32), edges)


def raw_inputs(
    of: Small, candidates: int, behaviours: int, seed: int = 0, unknown: float = 0.2, missing: float = 0.2
) -> dict[str, np.ndarray]:
    """A request of the graph's raw inputs: known, unknown and missing keys, present and missing numbers."""
    rng = np.random.default_rng(seed)
    keys = of.encoding.vocabulary.keys
    out: dict[str, np.ndarray] = {}
    for spec in graph_inputs(of.encoding.schema):
        shape = [{"C": candidates, "L": behaviours}.get(str(n), n) for n in spec.shape]
        if spec.name.endswith("_keys"):
            drawn = np.where(
                rng.random(shape) < unknown, rng.integers(-(2**63), 2**63 - 1, shape), rng.choice(keys, shape)
            )
            drawn = np.where(rng.random(shape) < missing, 0, drawn)
            if spec.name == "behaviour_keys":  # a real behaviour has an action
                actions = action_keys(of.recipe)
                drawn[:, -2] = rng.choice([*actions, keys[0]] if actions else keys, behaviours)
            out[spec.name] = drawn.astype(np.int64)
        elif spec.name == "behaviour_times":
            out[spec.name] = NOW_MS - np.sort(rng.integers(0, 10**9, shape))
        elif spec.name == "request_time":
            out[spec.name] = np.array([NOW_MS])
        else:
            values = rng.normal(size=shape) * 3
            out[spec.name] = np.where(rng.random(shape) < missing, np.nan, values).astype(np.float32)
            # A vector is missing as a whole.
            for columns in _vector_columns(of.encoding.schema, spec.name.removesuffix("_numerics")):
                out[spec.name][:, columns] = np.where(
                    np.isnan(out[spec.name][:, columns.start])[:, None], np.nan, values[:, columns]
                )
    return out


def _vector_columns(schema: FeatureSchema, group: str) -> list[slice]:
    if group not in ("user", "item", "context", "candidate", "behaviour"):
        return []
    features = schema.behaviour_item_features if group == "behaviour" else schema.group(group)
    return list(RowLayout(features).vector_columns.values())


def score(of: Small, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {n: t.numpy() for n, t in of.graph({n: torch.from_numpy(v) for n, v in inputs.items()}).items()}


def training_batch(of: Small, n: int, behaviours: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """`n` impressions in the form of a training batch.

    Each has its own user, embedding rows instead of keys, and some missing numbers and times.
    """
    rng = np.random.default_rng(seed)
    schema = of.encoding.schema
    voc = of.encoding.vocabulary
    one = raw_inputs(of, n, behaviours, seed)
    batch: dict[str, np.ndarray] = {}
    for group in ("user", "context", "item"):
        width = one[f"{group}_keys"].shape[1]
        keys = one["item_keys"] if group == "item" else rng.choice(voc.keys, (n, width))
        if group == "context" and (domains := domain_keys(of.recipe)):  # each of them occurs, and other values too
            keys[:, 0] = rng.choice([*domains, voc.keys[0]], n)
        unknown = np.array([voc.unknown_rows[v] for v in key_column_vocabularies(schema.group(group))])
        batch[f"{group}_rows"] = voc.rows_of(keys, unknown).astype(np.int64)
        batch[f"{group}_numerics"] = _numbers(rng, (n, one[f"{group}_numerics"].shape[1]))
    unknown = np.array([voc.unknown_rows[v] for v in behaviour_column_vocabularies(schema)])
    keys = rng.choice(voc.keys, (n, behaviours, one["behaviour_keys"].shape[1]))
    if actions := action_keys(of.recipe):  # each of them occurs, and another one too
        keys[..., -2] = rng.choice([*actions, voc.keys[0]], (n, behaviours))
    rows = voc.rows_of(keys, unknown).astype(np.int64)
    length = rng.integers(0, behaviours + 1, n)
    real = np.arange(behaviours) < length[:, None]
    batch["behaviour_rows"] = rows * real[..., None]
    known_time = real & (rng.random(real.shape) < 0.9)
    batch["behaviour_times"] = np.where(known_time, NOW_MS - rng.integers(0, 10**9, real.shape), 0)
    batch["behaviour_numerics"] = _numbers(rng, (n, behaviours, one["behaviour_numerics"].shape[1]))
    batch["request_time"] = np.full(n, NOW_MS)
    batch["position"] = rng.integers(1, 11, n)
    batch["position_cross"] = rng.integers(0, 4, n)
    click = rng.integers(0, 2, n)
    batch["label/click"], batch["label/cart"], batch["label/like"] = (
        v.astype(np.float32) for v in (click, click * rng.integers(0, 2, n), click * rng.integers(0, 2, n))
    )
    batch["label/log1p(watch_ms)"] = _numbers(rng, (n,), missing=0.0) ** 2
    batch["label/rating"] = _numbers(rng, (n,), missing=0.0)
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in batch.items()}


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], missing: float = 0.1) -> np.ndarray:
    return np.where(rng.random(shape) < missing, np.nan, rng.normal(size=shape)).astype(np.float32)
