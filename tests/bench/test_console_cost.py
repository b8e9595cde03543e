"""Tests that the benchmark of the console measures what its pages ask, over a full history."""

import re
from array import array

from running_service import ROOT

from bench.console import PAGES, of_three_days, verdicts_of
from service.metrics.history import STEPS, History

SOURCE = ROOT / "console" / "src" / "pages"
FILES = {"now": "now.tsx", "versions": "versions/versions.tsx", "weights/experiments": "weights/experiments.tsx"}


def test_the_pages_ask_as_often_as_is_measured() -> None:
    repeating = {path for path in SOURCE.rglob("*.tsx") if "EVERY_MS" in path.read_text()}
    assert repeating == {SOURCE / name for name in FILES.values()}
    for page, (interval_ms, calls) in PAGES.items():
        text = (SOURCE / FILES[page]).read_text()
        assert int(re.findall(r"EVERY_MS = ([\d_]+);", text)[0].replace("_", "")) == interval_ms
        asked = set(re.findall(r"get<\w+>\([`\"](/\w+)", text)) | ({"/metrics"} if "getMetrics" in text else set())
        assert {call.partition("?")[0] for call in calls} <= asked


def test_the_history_is_as_full_as_it_can_be() -> None:
    short = History({'["n"]': 0}, [1_000_000.0, 1_000_015.0], [array("d", [1.0]), array("d", [600.0])])
    full = of_three_days(short)
    assert full.times[-1] - full.times[0] >= STEPS[-1][0] - STEPS[-1][1]
    assert full.times == sorted(full.times)
    assert (full.rows[0][0], full.rows[-1][0]) == (0.0, 600.0)
    # A service adds a sample to it and drops next to nothing.
    length = len(full.times)
    full.add(full.times[-1] + 15, {})
    assert len(full.times) >= 0.9 * length


def test_a_page_that_is_too_dear_is_a_miss() -> None:
    dear = verdicts_of({path: 30.0 for _, calls in PAGES.values() for path in calls})
    assert [verdict.passed for verdict in dear] == [True, False, True]
    assert [round(verdict.value, 2) for verdict in dear] == [0.6, 3.0, 0.6]
