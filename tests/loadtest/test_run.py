"""Tests `python -m loadtest` as a whole, against a real service over real HTTP."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Start = Callable[[str], str]
Run = Callable[..., Any]


def test_right_answers_give_percentiles_a_report_and_exit_code_0(start_service: Start, run_loadtest: Run) -> None:
    outcome = run_loadtest(start_service("none"), "--candidates", "10-30", "--scene", "home", "--unknown-share", "0.2")
    assert outcome.code == 0, outcome.text
    assert outcome.phase["answered"] > 50
    assert outcome.phase["failures"] == 0
    assert (
        0
        < outcome.phase["latency_ms"]["p50"]
        <= outcome.phase["latency_ms"]["p95"]
        <= outcome.phase["latency_ms"]["p99"]
    )
    assert outcome.phase["models"] == {"stub/1": outcome.phase["answered"]}
    assert "every answer was right" in outcome.text
    assert "/rank" in outcome.report
    assert "<html" in outcome.report


def test_a_callers_key_opens_a_service_that_wants_one(start_service: Start, run_loadtest: Run) -> None:
    url = start_service("keyed")
    outcome = run_loadtest(url, "--key", "let-me-in", "--duration-s", "1")
    assert (outcome.code, outcome.phase["failures"]) == (0, 0), outcome.text
    refused = run_loadtest(url, "--duration-s", "1")
    assert refused.code == 1
    assert "HTTP 401 unauthorized" in refused.phase["failed_because"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unsorted", "scores do not descend"),
        pytest.param("error", "HTTP 503 overloaded", marks=pytest.mark.slow),
        pytest.param("degraded", "degraded: store_unavailable", marks=pytest.mark.slow),
    ],
)
def test_wrong_answers_are_failures_however_fast(
    fault: str, words: str, start_service: Start, run_loadtest: Run
) -> None:
    outcome = run_loadtest(start_service(fault))
    assert outcome.code == 1
    assert outcome.phase["failures"] > 0
    assert words in outcome.phase["failed_because"]
    assert f"x {words}" in outcome.text


def test_a_stall_is_charged_with_every_request_that_had_to_wait(start_service: Start, run_loadtest: Run) -> None:
    outcome = run_loadtest(start_service("stall"), "--duration-s", "5", "--users", "2")
    assert outcome.code == 0, outcome.text
    # A fifth of the schedule was due in the second without answers. Only two requests were in flight then, so latencies
    # measured from the sending would contain one slow request in a hundred, and the p95 would seem low.
    assert outcome.phase["latency_ms"]["p95"] > 300
    assert outcome.phase["latency_ms"]["p95"] > 2 * outcome.phase["service_ms"]["p95"]


def test_a_service_that_is_not_there_fails_the_run(run_loadtest: Run) -> None:
    outcome = run_loadtest("http://127.0.0.1:9", "--duration-s", "1")
    assert outcome.code == 1
    assert "no answer: ConnectionRefusedError" in outcome.phase["failed_because"]


@pytest.mark.slow
def test_overload_ends_in_bounded_time_and_counts_what_was_never_sent(start_service: Start, run_loadtest: Run) -> None:
    outcome = run_loadtest(
        start_service("slow"), "--rate", "1000", "--duration-s", "1", "--drain-s", "0", "--users", "4"
    )
    assert outcome.code == 1
    assert outcome.phase["failed_because"]["never sent: all users were waiting for answers"] > 0
    assert outcome.phase["answered"] + outcome.phase["failures"] > 900


def test_versions_swapped_under_load_are_all_seen(start_service: Start, run_loadtest: Run) -> None:
    outcome = run_loadtest(start_service("none"), "--swap", "stub/2", "--swap", "stub/3", "--swap-every-s", "0.4")
    assert outcome.code == 0, outcome.text
    assert {"stub/2", "stub/3"} <= outcome.phase["models"].keys()
    assert outcome.summary["swaps"]["done"] >= 4


@pytest.mark.slow
def test_a_version_that_never_answers_fails_the_run(start_service: Start, run_loadtest: Run) -> None:
    outcome = run_loadtest(start_service("deaf"), "--swap", "stub/1", "--swap", "stub/2", "--swap-every-s", "0.4")
    assert outcome.code == 1
    assert "stub/2 was rolled out and never answered" in outcome.text


@pytest.mark.slow
def test_a_refused_rollout_fails_the_run(start_service: Start, run_loadtest: Run) -> None:
    outcome = run_loadtest(start_service("none"), "--swap", "stub/1", "--swap", "stub/2", "--admin-token", "wrong")
    assert outcome.code == 1
    assert "rollout refused: stub/1: HTTP 401" in outcome.text


def test_load_goes_to_this_machine_alone_unless_told_otherwise(run_loadtest: Run) -> None:
    # 192.0.2.0/24 is reserved for documentation. Nothing is sent to it, because the address is checked first.
    outcome = run_loadtest("http://192.0.2.1:8000")
    assert outcome.code == 1
    assert "not this machine" in outcome.text


def test_a_folder_without_ids_is_named(run_loadtest: Run, tmp_path: Path) -> None:
    outcome = run_loadtest("http://127.0.0.1:9", "--data", str(tmp_path))
    assert outcome.code == 1
    assert f"no users.parquet or users.csv in {tmp_path}" in outcome.text


@pytest.mark.slow
def test_the_search_ends_at_a_rate_that_held(start_service: Start, run_loadtest: Run) -> None:
    flags = [
        "--find-limit",
        "--rate",
        "20",
        "--step-s",
        "2",
        "--max-steps",
        "6",
        "--p99-limit-ms",
        "250",
        "--users",
        "64",
    ]
    outcome = run_loadtest(start_service("slow"), *flags)
    assert outcome.code == 0, outcome.text
    limit = outcome.summary["limit"]["rate"]
    tried = {phase["rate"]: phase for phase in outcome.summary["phases"]}
    assert 20 <= limit < 200, "a request keeps this service for 5 ms, so it cannot do 200 in a second"
    assert tried[limit]["failures"] == 0
    assert tried[limit]["latency_ms"]["p99"] <= 250
    assert "highest load with p99 <= 250 ms" in outcome.text


@pytest.mark.slow
def test_locusts_own_command_runs_the_same_users(start_service: Start, ids: Path) -> None:
    url = start_service("unsorted")
    flags = [
        "--headless",
        "-u",
        "8",
        "-t",
        "2",
        "--host",
        url,
        "--data",
        str(ids),
        "--rate",
        "50",
        "--warmup-s",
        "0",
        "--candidates",
        "10",
    ]
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "scores do not descend" in done.stdout + done.stderr
