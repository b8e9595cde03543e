"""Tests the history of the metrics: thinning, rates, quantiles, and one sample per step over all workers."""

import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram

from service.metrics.families import Families, families_of
from service.metrics.figures import HistoryView, having
from service.metrics.history import History, loads
from service.metrics.shared_history import SharedHistory


def counters(name: str, *series: tuple[dict[str, str], float]) -> Families:
    samples = [[f"funnelrank_{name}_total", labels, value] for labels, value in series]
    return {f"funnelrank_{name}": {"type": "counter", "help": "", "over_workers": "sum", "samples": samples}}


def rankings(ok: float, failed: float = 0.0) -> Families:
    return counters(
        "rankings", ({"role": "stable", "result": "ok"}, ok), ({"role": "stable", "result": "failed"}, failed)
    )


def newest(history: History) -> HistoryView:
    return HistoryView(history, len(history.times) - 1)


def test_increases_and_rates_of_a_window() -> None:
    history = History()
    for minute in range(11):
        history.add(60.0 * minute, rankings(ok=60 * minute, failed=minute))
    view = newest(history)
    ok = having("result", "ok")
    assert view.total("rankings_total", 300, ok) == 300
    assert view.increase("rankings_total", 300, by=("result",)) == {("ok",): 300.0, ("failed",): 5.0}
    assert view.rate("rankings_total", 300, ok) == {(): 1.0}
    assert (view.covered(300), view.covered(3600)) == (300.0, 600.0)
    assert view.total("rankings_total", 3600, ok) == 600, "what there is of a longer window"
    assert view.value("rankings_total", ok) == 600
    assert view.total("nothing_total", 300) == 0


def test_a_series_that_begins_later_counts_from_zero_and_one_that_restarts_never_below() -> None:
    history = History()
    history.add(0.0, rankings(ok=5))
    history.add(15.0, rankings(ok=7) | counters("degraded", ({"reason": "unknown_user"}, 3)))
    assert newest(history).total("degraded_total", 60) == 3
    history.add(30.0, rankings(ok=0))
    assert newest(history).total("rankings_total", 60) == 0


def test_old_samples_are_thinned_and_the_number_is_bounded() -> None:
    history = History()
    for step in range(5000):
        history.add(100_000 + 60.0 * step, rankings(ok=step))
    now = history.times[-1]
    assert len(history.times) < 320
    ages = [now - at for at in history.times]
    assert ages == sorted(ages, reverse=True)
    assert 259_200 <= ages[0] <= 262_800, "three days, and a little more"
    gaps = [(old, old - new) for old, new in zip(ages, ages[1:], strict=False)]
    assert all(gap <= 60 for age, gap in gaps if age < 4000)
    assert all(gap <= 300 + 60 for age, gap in gaps if age < 23_000)
    assert all(gap <= 1800 + 300 for _, gap in gaps)
    assert newest(history).covered(259_200) == pytest.approx(259_200, rel=0.01)


def test_a_history_is_read_as_it_was_written() -> None:
    history = History()
    history.add(1.5, rankings(ok=5))
    history.add(20.0, rankings(ok=7) | counters("degraded", ({"reason": 'a "reason" of\n7'}, 3)))
    again = loads(history.dumps())
    assert (again.keys, again.times, again.rows) == (history.keys, history.times, history.rows)
    assert newest(again).increase("degraded_total", 60, by=("reason",)) == {('a "reason" of\n7',): 3.0}
    assert history.with_sample(40.0, rankings(ok=9)).times == [1.5, 20.0, 40.0]
    assert history.times == [1.5, 20.0]


def test_quantiles_are_those_of_prometheus() -> None:
    registry = CollectorRegistry()
    histogram = Histogram(
        "funnelrank_request_duration_seconds", "", ["route"], buckets=(0.1, 0.2, 0.4), registry=registry
    )
    history = History()
    of_rank = histogram.labels("/rank")
    histogram.labels("/events").observe(9.0)
    history.add(0.0, families_of(registry, {}))
    for seconds in (0.05, 0.15, 0.15, 0.3):
        of_rank.observe(seconds)
    history.add(15.0, families_of(registry, {}))
    measured = newest(history).latency("request_duration_seconds", 60, (0.25, 0.5, 1.0))
    # histogram_quantile: a quarter of 4 is the whole first bucket; the second observation is halfway in the second one.
    assert (measured.n, measured.mean) == (4, pytest.approx(0.1625))
    assert measured.quantiles == (pytest.approx(0.1), pytest.approx(0.15), pytest.approx(0.4))
    of_rank.observe(5.0)
    history.add(30.0, families_of(registry, {}))
    assert newest(history).latency("request_duration_seconds", 60, (1.0,)).quantiles == (pytest.approx(0.4),)
    assert newest(history).latency("stage_duration_seconds", 60, (0.5,)) == (0, None, (None,))


def test_one_worker_samples_for_all_and_each_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = SharedHistory(tmp_path)
    other = SharedHistory(tmp_path)
    assert one.read().times == []
    assert one.is_due()
    one.sample(rankings(ok=1))
    other.sample(rankings(ok=2))
    assert len(other.read().times) == 1, "the other one was early"
    assert not other.is_due()
    later = time.time() + 16
    monkeypatch.setattr("service.metrics.shared_history.time.time", lambda: later)
    other.sample(rankings(ok=3))
    assert len(one.read().times) == 2
    assert newest(one.read()).value("rankings_total") == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": [1]}'])
def test_a_broken_file_costs_the_history_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history").write_bytes(content)
    shared = SharedHistory(tmp_path)
    assert shared.read().times == []


def test_a_folder_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: Any) -> None:
    shared = SharedHistory(tmp_path / "gone")
    shared.sample(rankings(ok=1))
    shared.sample(rankings(ok=2))
    assert caplog.text.count("the history of the metrics cannot be written") == 1


def test_a_process_without_a_folder_keeps_its_own() -> None:
    shared = SharedHistory(None)
    assert shared.is_due()
    shared.sample(rankings(ok=1))
    assert not shared.is_due()
    assert len(shared.read().times) == 1
