"""Tests that the benchmark of the rules measures what it says."""

import pytest

from bench import rules


def test_the_second_stage_is_measured_with_and_without_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_TIMES", 2)
    costs = rules.rules_ms()
    assert list(costs) == ["no rules", "four rules", "seen and three rules"]
    assert costs["four rules"] > costs["no rules"]
    assert [(verdict.value, verdict.bound) for verdict in rules.verdicts(costs)] == [
        (costs["four rules"], 0.3),
        (costs["no rules"], 0.005),
    ]
