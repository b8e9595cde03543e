"""Tests that a verdict about a canary counts a request for both versions or for neither."""

from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_bundle import SCHEMA

from features import FeatureSchema
from features.layouts import Layouts
from service.rollout.observing import canary
from service.rollout.observing.canary import Comparison
from service.rollout.rollout import Limits


def test_a_request_that_fails_in_both_versions_is_never_counted_against_one(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = SimpleNamespace(inputs_fingerprint="f")
    bundles: list[Any] = [SimpleNamespace(layouts=layouts, tasks=("ctr",)) for _ in range(2)]
    comparison = Comparison(*bundles)
    limits = Limits(min_requests=10)
    verdicts: list[str | None] = []
    failing = [False]

    def scored(*_arguments: Any) -> tuple[float, bool, None]:
        verdicts.append(comparison.verdict(limits))
        return 0.0, failing[0], None

    monkeypatch.setattr(canary, "_scored", scored)
    for user in range(20):
        failing[0] = user in (14, 15)  # each version goes first once
        comparison.compare(bundles[0], str(user), {})
    assert [*verdicts, comparison.verdict(limits)] == [None] * 41


def test_versions_that_read_other_features_of_the_request_are_not_scored_on_each_others_inputs() -> None:
    """Their rows in the store are the same, so they share a fingerprint."""
    own = [{"name": "distance", "type": "numeric"}]
    versions: list[Any] = [
        SimpleNamespace(layouts=Layouts.of(FeatureSchema.model_validate(schema)), tasks=("ctr",))
        for schema in (SCHEMA, SCHEMA | {"candidate": own})
    ]
    plain, with_own = versions
    assert plain.layouts.fingerprint == with_own.layouts.fingerprint
    apart = Comparison(with_own, plain)
    assert apart.wants(plain, own_features=False) and apart.wants(with_own, own_features=False)
    together = Comparison(with_own, with_own)
    assert not together.wants(plain, own_features=False)
