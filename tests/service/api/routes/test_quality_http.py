"""Tests `GET /quality`: the report that `funnelrank quality` wrote last, or what to do for one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running_service import Server, serving

from service.api.access.caller_keys import needed_role
from service.callers.document import CallerRole
from service.sample.embedded_redis import EmbeddedRedis

REPORT: dict[str, Any] = {
    "format": 1,
    "model": "synthetic",
    "watermark_ms": 1_650_988_800_000,
    "days": 28.0,
    "impressions": 3,
    "join_rate": None,
    "cells": [{"version": "1", "task": "pctr", "copc": 1.02}],
    "drift_notes": [],
    "empty_days": [],
    "not_logged": [],
} | {name: [] for name in ("by_day", "by_position", "invariants", "alarms", "drift")}


def test_without_a_setting_the_answer_says_what_to_do(server: Server) -> None:
    answer = server.http.get("/quality")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "FUNNELRANK_QUALITY_FILE" in answer.json()["detail"]


@pytest.fixture(scope="module")
def measured(kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Any:
    """A service whose setting names a file that is not there yet."""
    folder = tmp_path_factory.mktemp("quality")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    file = folder / "quality.json"
    with serving(folder, folder / "registry", redis_server.url, quality_file=file) as running:
        yield SimpleNamespace(http=running.http, file=file)


def test_the_newest_report_is_answered(measured: SimpleNamespace) -> None:
    file: Path = measured.file
    missing = measured.http.get("/quality")
    assert missing.status_code == 404
    assert f"{file} cannot be read (No such file or directory)" in missing.json()["detail"]
    for impressions in (3, 5):
        file.write_text(json.dumps(REPORT | {"impressions": impressions}))
        answer = measured.http.get("/quality")
        assert answer.status_code == 200
        assert answer.json() == REPORT | {"impressions": impressions}
    for content in ("no JSON", "[]", '{"cells": []}'):
        file.write_text(content)
        answer = measured.http.get("/quality")
        assert answer.status_code == 404
        assert "is no report of `funnelrank quality`" in answer.json()["detail"]


def test_a_caller_needs_the_role_read() -> None:
    assert needed_role("GET", "/quality", metrics_are_open=True) == CallerRole.READ
