"""Tests that the alarms of `GET /stats` are the alert rules: same names, windows, limits, and verdict on each case."""

import re

import pytest

from service.metrics.alarms import CONDITIONS, Alarm, AlarmState, evaluated
from service.metrics.families import Families
from service.metrics.figures import HistoryView
from service.metrics.history import History
from tests.tools.test_alerts import ALERTS, CASES, DOCUMENT, Case
from tools.alerts import ALARMS, DOWN, alarms, seconds

NAMES = [name for name in ALERTS if name != DOWN]
SERIES = re.compile(r"funnelrank_(?P<name>\w+?)(?P<total>_total)?\{(?P<labels>.*)\}")


def expanded(values: str) -> list[float]:
    """The values of a series in promtool's form: `1 2`, `0+5x60`, `0x25`."""
    numbers: list[float] = []
    for part in values.split():
        run = re.fullmatch(r"(?P<start>[\d.]+)(?:\+(?P<step>[\d.]+))?x(?P<count>\d+)", part)
        if run is None:
            numbers.append(float(part))
        else:
            step = float(run["step"] or 0)
            numbers += [float(run["start"]) + step * place for place in range(int(run["count"]) + 1)]
    return numbers


def verdict(name: str, series: dict[str, str], minutes: int) -> Alarm:
    """The alarm after these minutes, with a sample per minute."""
    history = History()
    columns = {text: expanded(values) for text, values in series.items()}
    for minute in range(minutes + 1):
        families: Families = {}
        for text, values in columns.items():
            parts = SERIES.fullmatch(text)
            assert parts is not None
            labels = dict(re.findall(r'(\w+)="([^"]*)"', parts["labels"]))
            labels.pop("job")
            sample = [f"funnelrank_{parts['name']}{parts['total'] or ''}", labels, values[minute]]
            empty = {"type": "", "help": "", "over_workers": "max", "samples": []}
            families.setdefault(f"funnelrank_{parts['name']}", empty)["samples"].append(sample)
        history.add(60.0 * minute, families)
    view = HistoryView(history, len(history.times) - 1)
    return next(alarm for alarm in evaluated(view) if alarm.name == name)


def test_every_rule_has_a_condition_and_its_texts_are_current() -> None:
    assert list(CONDITIONS) == NAMES
    assert ALARMS.read_text() == alarms(DOCUMENT), "run `python -m tools.alerts`"


@pytest.mark.parametrize("name", NAMES)
def test_windows_and_limits_are_those_of_the_rule(name: str) -> None:
    expression = ALERTS[name]["expr"]
    windows = {seconds(text) for text in re.findall(r"(?:\[|ratio_rate)(\d+[smhd])", expression)}
    assert set(CONDITIONS[name].windows) - {0.0} == windows
    compared = re.search(r"[<>=]=?\s*(?P<number>[\d.]+)(?:\s*\*\s*(?P<factor>[\d.]+)(?!\d*\s*sum))?", expression)
    if compared is not None and "== 1" not in expression:
        limit = float(compared["number"]) * float(compared["factor"] or 1)
        assert CONDITIONS[name].limit == pytest.approx(limit)


@pytest.mark.parametrize("name", NAMES)
def test_an_alarm_fires_on_the_case_of_its_rule_and_is_silent_on_the_other(name: str) -> None:
    case: Case = CASES[name]
    fires = verdict(name, case.fires, case.minutes)
    assert fires.state == AlarmState.FIRING
    assert {label: text for label, text in case.labels.items() if label != "job"} == fires.labels
    assert verdict(name, case.silent, case.minutes).state == AlarmState.OK


def test_a_condition_that_has_just_begun_is_pending() -> None:
    series = CASES["FunnelrankWorkerWithoutModel"].fires
    pending = verdict("FunnelrankWorkerWithoutModel", series, minutes=1)
    assert (pending.state, pending.since_s) == (AlarmState.PENDING, 60.0)
    assert verdict("FunnelrankWorkerWithoutModel", series, minutes=2).state == AlarmState.FIRING


def test_without_samples_nothing_fires() -> None:
    history = History()
    history.add(0.0, {})
    assert {alarm.state for alarm in evaluated(HistoryView(history, 0))} == {AlarmState.OK}
