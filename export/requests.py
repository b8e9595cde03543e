"""Builds requests of any size from rows that training has set aside, to try a graph on them."""

from collections.abc import Mapping

import numpy as np

from export.graph import graph_inputs
from features import FeatureSchema
from features.within_request import INPUT, ComparedColumns, within_request

Inputs = dict[str, np.ndarray]
UNKNOWN_SHARE = 0.05


def request(
    schema: FeatureSchema,
    raw_rows: Mapping[str, np.ndarray],
    candidates: int,
    behaviours: int,
    rng: np.random.Generator,
) -> Inputs:
    """Build a request of `candidates` x `behaviours` from raw rows (`<input name>` `[n, ...]`, see models/data).

    Some ids are replaced by keys that no vocabulary has. The behaviours are a sample of all behaviour rows, newest
    first.
    """
    # One row for the inputs of the user and the request, a row per candidate for those of items.
    one = rng.integers(len(raw_rows["request_time"]))
    drawn: Inputs = {}
    for spec in graph_inputs(schema):
        if spec.name == INPUT:
            continue
        pool = raw_rows[spec.name]
        if spec.shape[0] == "C":
            drawn[spec.name] = pool[rng.integers(len(pool), size=candidates)]
        elif spec.shape[0] == "L":
            continue
        else:
            drawn[spec.name] = pool[one : one + 1]
    if schema.behaviour is not None:
        drawn |= _behaviours(schema, raw_rows, behaviours, rng)
    # Replace some keys, so that the graph is also tried on ids that it does not know.
    for name, values in drawn.items():
        if name.endswith("_keys"):
            unknown = rng.random(values.shape) < UNKNOWN_SHARE
            drawn[name] = np.where(unknown, rng.integers(-(2**63), 2**63 - 1, values.shape), values)
    compared = ComparedColumns.of(schema)
    if len(compared):
        drawn[INPUT] = within_request(compared, drawn["item_numerics"])
    order = [s.name for s in graph_inputs(schema)]
    return {name: np.ascontiguousarray(drawn[name]) for name in order}


def _behaviours(
    schema: FeatureSchema, raw_rows: Mapping[str, np.ndarray], behaviours: int, rng: np.random.Generator
) -> Inputs:
    times = raw_rows["behaviour_times"]
    picked = rng.integers(len(times), size=behaviours) if len(times) else np.zeros(0, np.int64)
    picked = picked[np.argsort(-times[picked], kind="stable")]
    names = [s.name for s in graph_inputs(schema) if s.shape[0] == "L"]
    return {name: raw_rows[name][picked] for name in names}
