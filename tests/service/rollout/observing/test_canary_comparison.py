"""Tests that a verdict about a canary counts a request for both versions or for neither."""

from types import SimpleNamespace
from typing import Any

import pytest

from service.rollout.observing import canary
from service.rollout.observing.canary import Comparison
from service.rollout.rollout import Limits


def test_a_request_that_fails_in_both_versions_is_never_counted_against_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bundles: list[Any] = [SimpleNamespace(layouts=SimpleNamespace(fingerprint="f"), tasks=("ctr",)) for _ in range(2)]
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
