"""Tests the alert rules: promtool takes them, each alert fires on its case and only there, and the docs have them."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tools.alerts import PAGE, RULES, alerts, page_with, table

DOCUMENT = yaml.safe_load(RULES.read_text())
ALERTS = {rule["alert"]: rule for rule in alerts(DOCUMENT)}
JOB = 'job="funnelrank"'
RANKED = 'funnelrank_requests_total{job="funnelrank", route="/rank", outcome="%s"}'


class Case(NamedTuple):
    """Series over the minutes with which an alert fires, and series with which it does not; the labels that it has."""

    fires: dict[str, str]
    silent: dict[str, str]
    labels: dict[str, str] = {"job": "funnelrank"}  # noqa: RUF012 - read only
    minutes: int = 30


def ranked(ok: int, failed: int, outcome: str, minutes: int = 60) -> dict[str, str]:
    """Rankings per minute of the outcome `ok` and of another one."""
    return {RANKED % "ok": f"0+{ok}x{minutes}", RANKED % outcome: f"0+{failed}x{minutes}"}


def one(name: str, labels: str, fires: str, silent: str, **expected: str) -> Case:
    series = f"{name}{{{JOB}{labels and ', '}{labels}}}"
    return Case({series: fires}, {series: silent}, {"job": "funnelrank", **expected})


STANDING = "1+0x60"
CASES = {
    "FunnelrankFailingFast": Case(ranked(980, 20, "overloaded"), ranked(990, 10, "overloaded"), minutes=60),
    "FunnelrankFailing": Case(ranked(992, 8, "deadline_exceeded"), ranked(996, 4, "deadline_exceeded"), minutes=60),
    "FunnelrankFailingSlowly": Case(
        ranked(9980, 20, "internal_error", 90), ranked(9995, 5, "internal_error", 90), minutes=90
    ),
    "FunnelrankDown": one("up", "", "1 0+0x60", STANDING),
    "FunnelrankWorkerWithoutModel": Case(
        {f"funnelrank_ready_workers{{{JOB}}}": STANDING, f"funnelrank_workers{{{JOB}}}": "2+0x60"},
        {f"funnelrank_ready_workers{{{JOB}}}": STANDING, f"funnelrank_workers{{{JOB}}}": STANDING},
    ),
    "FunnelrankWorkersRestart": one("funnelrank_workers", "", "2 1 2 1 2 1 2 1 2 1 2 1 2 1 2 1 " * 2, "2 1 2+0x40"),
    "FunnelrankConnectionsExhausted": one(
        "funnelrank_connections_cut_total", 'reason="refused"', "0+5x60", "5+0x60", reason="refused"
    ),
    "FunnelrankSlowReaders": one("funnelrank_connections_cut_total", 'reason="slow_reader"', "0+10x60", "0+1x60"),
    "FunnelrankOverloaded": Case(ranked(100, 1, "overloaded"), ranked(100, 1, "invalid_request")),
    "FunnelrankDeadlinesMissed": Case(ranked(100, 2, "deadline_exceeded"), ranked(1000, 2, "deadline_exceeded")),
    "FunnelrankCallersLeave": Case(ranked(100, 2, "client_gone"), ranked(1000, 2, "client_gone")),
    "FunnelrankModelFails": one(
        "funnelrank_rankings_total", 'role="canary", result="failed"', "0+1x60", "1+0x60", role="canary"
    ),
    "FunnelrankStoreUnavailable": one("funnelrank_degraded_total", 'reason="store_unavailable"', "0+1x60", "1+0x60"),
    "FunnelrankVersionRefused": one(
        "funnelrank_model_swaps_total", 'result="score_drift"', "0x25 1+0x30", "1+0x60", result="score_drift"
    ),
    "FunnelrankVersionWithdrawn": one(
        "funnelrank_automatic_rollbacks_total", 'role="canary"', "0x25 1+0x30", "1+0x60", role="canary"
    ),
    "FunnelrankServingFallback": one("funnelrank_serving_fallback", "", STANDING, "0+0x60"),
    "FunnelrankDocumentUnreadable": one(
        "funnelrank_document_unreadable", 'document="fusion"', STANDING, "0+0x60", document="fusion"
    ),
    "FunnelrankShadowDiffers": one("funnelrank_shadow_score_psi", 'task="pctr"', "0.3+0x60", "0.2+0x60", task="pctr"),
    "FunnelrankExposureLogLoses": one(
        "funnelrank_exposure_log_records_total",
        'kind="exposures", outcome="queue_full"',
        "0+1x60",
        "1+0x60",
        outcome="queue_full",
    ),
    "FunnelrankExposureLogRemoved": one("funnelrank_exposure_log_files_removed_total", "", "0+1x60", "1+0x60"),
}


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert list(ALERTS) == list(CASES)


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in ALERTS.values():
        assert set(rule["annotations"]) == {"summary", "action", "runbook_url"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_table_in_the_docs_is_current() -> None:
    text = PAGE.read_text()
    assert page_with(text, table(DOCUMENT)) == text, "run `python -m tools.alerts`"


@pytest.mark.tools
def test_promtool_finds_no_fault_in_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.tools
def test_each_alert_fires_on_its_case_and_is_silent_on_the_other(tmp_path: Path) -> None:
    tests = [promtool_case(name, case, fires) for name, case in CASES.items() for fires in (True, False)]
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump(document))
    tested = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def promtool_case(name: str, case: Case, fires: bool) -> dict[str, Any]:
    """A unit test in promtool's form."""
    rule = ALERTS[name]
    series = case.fires if fires else case.silent
    alert = {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": rule["annotations"]}
    return {
        "name": f"{name} {'fires' if fires else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": text, "values": values.strip()} for text, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{case.minutes}m", "alertname": name, "exp_alerts": [alert] if fires else []}
        ],
    }
