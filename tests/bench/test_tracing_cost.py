"""Tests that the benchmark of the traces measures what it says."""

import pytest

from bench import tracing


def test_the_traces_of_a_request_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_REQUESTS", 2000)
    cost = tracing.traces_ms()
    assert cost > 0
    assert tracing.verdict(0.02, 1.0).value == 2.0
    assert not tracing.verdict(0.02, 1.0).passed
