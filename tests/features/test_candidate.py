"""Tests the candidates' own features in the schema: rows of their own, outside everything that is stored."""

import pytest
from pydantic import ValidationError
from synthetic_bundle import SCHEMA

from features import FeatureSchema
from features.layouts import Layouts, graph_inputs

CANDIDATE = [
    {"name": "distance_km", "type": "numeric", "transform": "log1p"},
    {"name": "retrieval", "type": "categorical"},
    {"name": "badges", "type": "multi_categorical", "max_values": 2},
]


def test_stored_rows_and_the_fingerprint_do_not_change() -> None:
    plain = FeatureSchema.model_validate(SCHEMA)
    with_own = FeatureSchema.model_validate(SCHEMA | {"candidate": CANDIDATE})
    assert with_own.fingerprint == plain.fingerprint
    assert "candidate" not in plain.model_dump(), "services of earlier releases read a schema without them"
    assert FeatureSchema.model_validate(with_own.model_dump()) == with_own


def test_a_graph_has_inputs_for_them_only_if_the_schema_does() -> None:
    plain = graph_inputs(Layouts.of(FeatureSchema.model_validate(SCHEMA)))
    with_own = graph_inputs(Layouts.of(FeatureSchema.model_validate(SCHEMA | {"candidate": CANDIDATE})))
    assert with_own == plain | {
        "candidate_keys": ("int64", ("C", 3)),
        "candidate_numerics": ("float32", ("C", 1)),
    }


def test_inputs_of_two_versions_are_told_apart_by_what_a_request_brings() -> None:
    def inputs(**changes: object) -> str:
        return Layouts.of(FeatureSchema.model_validate(SCHEMA | changes)).inputs_fingerprint

    assert inputs() != inputs(candidate=CANDIDATE)
    assert inputs() != inputs(context=[])
    assert inputs(candidate=CANDIDATE[:1]) == inputs(candidate=[{"name": "distance_km", "type": "numeric"}])


def test_a_name_of_another_group_is_refused() -> None:
    with pytest.raises(ValidationError, match="'price' is defined twice; names are unique over all groups"):
        FeatureSchema.model_validate(SCHEMA | {"candidate": [{"name": "price", "type": "numeric"}]})


def test_candidates_are_not_compared_within_a_request() -> None:
    own = [CANDIDATE[0] | {"within_request": True}]
    with pytest.raises(ValidationError, match="'distance_km' is no item feature"):
        FeatureSchema.model_validate(SCHEMA | {"candidate": own})
