"""Tests that `/openapi.json` is true: with requests generated from it, every answer is one that it states,
never a 500.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.routing import APIRoute

from service.api.access.operators import Operator
from service.api.application import ROUTERS
from service.sample.embedded_redis import EmbeddedRedis
from tests.service.api.routes.test_quality_http import REPORT

PROBLEM = "application/problem+json"
ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
OPERATIONS = {("post", "/rank")} | {
    (method.lower(), route.path_format) for route in ROUTES if route.include_in_schema for method in route.methods or ()
}
OPERATORS = sorted(
    (method.lower(), route.path_format)
    for route in ROUTES
    if Operator in route.dependencies
    for method in route.methods or ()
)


def test_twenty_six_operations_are_documented_and_fourteen_want_the_token() -> None:
    assert len(OPERATIONS) == 26
    assert len(OPERATORS) == 14


@pytest.fixture(scope="module")
def fuzzed(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> Iterator[Any]:
    """A separate service, because the fuzzing changes its documents."""
    folder = tmp_path_factory.mktemp("fuzzed")
    kit.publish(folder / "registry", "1")
    kit.go_live(folder / "registry", "1")
    (folder / "quality.json").write_text(json.dumps(REPORT))
    options = {"fusion_overrides": True, "quality_file": folder / "quality.json"}
    with kit.serving(folder, folder / "registry", redis_server.url, **options) as running:
        yield running


@pytest.mark.parametrize("examples", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_every_route_answers_what_the_document_states_and_never_500(fuzzed: Any, tmp_path: Path, examples: int) -> None:
    """In a process of its own, because only its exit code matters here, and not its warnings."""
    command = [
        *(
            Path(sys.executable).with_name("schemathesis"),
            "--config-file",
            Path(__file__).with_name("schemathesis.toml"),
        ),
        *("run", f"{fuzzed.url}/openapi.json", "--no-color", "--max-examples", str(examples)),
        *("--report", "json", "--report-json-path", tmp_path / "report.json"),
    ]
    done = subprocess.run(
        command, env=os.environ | {"FUZZ_TOKEN": "secret"}, cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["operations"]["tested"], report["operations"]["errored"]) == (len(OPERATIONS), 0)
    assert report["test_cases"]["generated"] > 10 * examples
    for operation, phases in report["valid_rates"].items():
        assert any(phase["accepted"] for phase in phases.values()) or "rollback" in operation, (
            f"{operation} never had a good request"
        )
    assert "request failed" not in fuzzed.log_lines
    assert fuzzed.rank(["1", "2"]).status_code == 200


def test_the_document_names_every_route_and_every_error_of_it(fuzzed: Any) -> None:
    document = fuzzed.http.get("/openapi.json").json()
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == OPERATIONS
    for methods in document["paths"].values():
        for described in methods.values():
            errors = {status: answer for status, answer in described["responses"].items() if status != "200"}
            assert all(PROBLEM in answer["content"] for answer in errors.values())
            assert "default" not in errors
    of_rank = document["paths"]["/rank"]["post"]
    assert set(of_rank["responses"]) == {"200", "400", "401", "403", "413", "422", "429", "503", "504"}
    assert of_rank["security"] == [{}, {"caller": []}]
    assert document["paths"]["/fusion"]["put"]["security"] == [{"operator": []}]
    assert set(document["components"]["securitySchemes"]) == {"caller", "operator"}
    assert "security" not in document["paths"]["/livez"]["get"]


@pytest.mark.parametrize(("method", "path"), OPERATORS)
@pytest.mark.parametrize(
    "sent",
    [
        None,
        "Bearer",
        "Bearer wrong",
        "Bearer secret2",
        "Bearer secre",
        "Basic c2VjcmV0",
        "secret",
        "Bearer s\u00e9cret",
        "Bearer " + "x" * 5000,
    ],
)
def test_operators_routes_want_the_token_before_they_look_at_the_body(
    fuzzed: Any, method: str, path: str, sent: str | None
) -> None:
    headers = {"Authorization": sent.encode()} if sent else {}
    for content in (b"{}", b"{", b"x" * 3_000_000):
        answer = fuzzed.http.request(method, path, content=content, headers=headers)
        assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (
            401,
            PROBLEM,
            "unauthorized",
        )
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "secret" not in answer.text


def test_a_wrong_method_is_reported_all_that_the_path_has(fuzzed: Any) -> None:
    answer = fuzzed.http.delete("/fusion")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, PUT")
