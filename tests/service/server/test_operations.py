"""Tests operation: health, faults of Redis, overload, metrics over all workers, stops, failing starts."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx
import pytest
import redis

from features.layouts import Layouts
from service.sample.embedded_redis import EmbeddedRedis, free_port
from service.store.redis.keys import SCHEMAS, item_key, user_key


def counters(server: Any, name: str) -> dict[str, float]:
    lines = [x for x in server.http.get("/metrics").text.splitlines() if x.startswith(name)]
    return {x.rsplit(" ", 1)[0]: float(x.rsplit(" ", 1)[1]) for x in lines}


def test_metrics_count_all_workers_together(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        request = {"user_id": "1", "candidates": ["1", "2"], "context": {"tab": 1, "hour": 13}}
        for _ in range(30):
            fresh_http.post(f"{server.url}/rank", json=request)
        fresh_http.post(f"{server.url}/rank", json={"user_id": "1", "candidates": []})
        expected = {"degraded": 30, "invalid_request": 1}

        def of_rank() -> dict[str, float]:
            counted = counters(server, "funnelrank_requests_total")
            return {
                outcome: counted.get(f'funnelrank_requests_total{{outcome="{outcome}",route="/rank"}}', 0)
                for outcome in expected
            }

        kit.wait_until(lambda: of_rank() == expected)  # the other worker counts in plain numbers at first
        assert [of_rank() for _ in range(5)] == [expected] * 5  # whichever worker answers
        for stage in ("store", "assemble", "score", "fuse", "respond"):
            assert (
                counters(server, "funnelrank_stage_duration_seconds_count")[
                    f'funnelrank_stage_duration_seconds_count{{stage="{stage}"}}'
                ]
                == 30
            )
        assert counters(server, "funnelrank_degraded_total") == {
            'funnelrank_degraded_total{reason="unknown_user"}': 30,
            'funnelrank_degraded_total{reason="unknown_items"}': 30,
        }
        assert counters(server, "funnelrank_candidates_sum") == {"funnelrank_candidates_sum": 60}
        assert counters(server, "funnelrank_model_info") == {
            'funnelrank_model_info{name="synthetic",role="stable",version="1"}': 1
        }
        assert counters(server, "funnelrank_workers") == {"funnelrank_workers": 2}


def test_a_killed_worker_is_replaced_and_not_counted_for_ever(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=2) as server:
        worker = server.http.get("/models").json()["worker"]["pid"]
        subprocess.run(["kill", "-9", str(worker)], check=True)
        kit.wait_until(lambda: server.log_lines.count("is in use") == 3, recovery="worker killed, from its end")
        server.http.close()
        server.http = fresh_http.client(base_url=server.url)
        kit.wait_until(lambda: counters(server, "funnelrank_ready_workers") == {"funnelrank_ready_workers": 2})
        assert server.rank(["1"]).status_code == 200


def test_one_worker_has_metrics_too(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=1) as server:
        server.rank(["1"])
        assert (
            counters(server, "funnelrank_requests_total")['funnelrank_requests_total{outcome="degraded",route="/rank"}']
            == 1
        )
    assert server.process.returncode == 0


def test_no_id_is_a_label(server: Any) -> None:
    server.rank(["a-very-special-item"], user_id="a-very-special-user", request_id="a-very-special-request")
    server.http.get("/a-very-special-path")
    assert "very-special" not in server.http.get("/metrics").text


def test_redis_away_at_the_start_means_degraded_answers_and_not_ready(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, layouts: Layouts
) -> None:
    redis_later = EmbeddedRedis()
    try:
        with kit.serving(tmp_path, registry, redis_later.url, wait_for="/livez") as server:
            answer = server.rank(["1", "2"])
            assert (answer.status_code, answer.json()["degraded"]) == (200, ["store_unavailable"])
            assert answer.json()["coverage"] == {"requested": 2, "scored": 2}
            ready = server.http.get("/readyz")
            assert (ready.status_code, ready.json()["code"], ready.headers["retry-after"]) == (503, "not_ready", "1")
            failing = [c["name"] for c in server.http.get("/readyz?verbose").json()["checks"] if not c["ok"]]
            assert failing == ["store"]
            event = {"user_id": "1", "item_id": "1", "action": "x", "timestamp": 1_700_000_000_000}
            written = server.http.post("/events", json={"events": [event]})
            assert (written.status_code, written.json()["code"]) == (503, "store_unavailable")
            assert (
                server.put("/features/items", {"items": [{"item_id": "1", "features": {"price": 1}}]}).status_code
                == 503
            )
            redis_later.start()
            kit.wait_until(lambda: server.http.get("/readyz").status_code == 200)
            assert (
                server.put("/features/items", {"items": [{"item_id": "1", "features": {"price": 1}}]}).status_code
                == 200
            )
            kit.wait_until(lambda: server.rank(["1"]).json()["degraded"] == ["unknown_user"])
    finally:
        redis_later.close()


def test_degradation_may_be_ready_where_the_operator_says_so(
    tmp_path: Path, registry: Path, kit: SimpleNamespace
) -> None:
    url = f"redis://me:hush@127.0.0.1:{free_port()}/0"
    with kit.serving(tmp_path, registry, url, allow_degraded_ready=True) as server:
        assert "degraded" in server.http.get("/readyz?verbose").text
        assert server.rank(["1"]).json()["degraded"] == ["store_unavailable"]
    assert "hush" not in server.log_lines


def test_redis_dying_and_coming_back_fails_no_ranking(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, layouts: Layouts
) -> None:
    with EmbeddedRedis() as own, kit.serving(tmp_path, registry, own.url, workers=2) as server:

        def fill() -> None:
            with redis.Redis.from_url(own.url) as client:
                client.set(item_key(layouts.fingerprint, "1"), layouts.item.pack({"item_id": "1", "price": 1}))
                client.set(user_key(layouts.fingerprint, "712"), layouts.user.pack({"age": 3}))

        fill()
        seen: list[tuple[int, tuple[str, ...]]] = []
        stop = threading.Event()

        request = {"user_id": "712", "candidates": ["1"], "context": {"tab": 1, "hour": 13}}

        def ask() -> None:
            with fresh_http.client(base_url=server.url) as http:
                while not stop.is_set():
                    answer = http.post("/rank", json=request)
                    seen.append((answer.status_code, tuple(answer.json().get("degraded", ()))))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        kit.wait_until(lambda: (200, ()) in seen)
        own.kill()
        kit.wait_until(lambda: (200, ("store_unavailable",)) in seen)
        own.start()
        kit.wait_until(
            lambda: (200, ("unknown_user", "unknown_items:1")) in seen, recovery="Redis dead, from when it is back"
        )
        fill()
        kit.wait_until(lambda: seen[-1] == (200, ()))
        stop.set()
        for thread in threads:
            thread.join()
        assert {status for status, _ in seen} == {200}
        assert server.log_lines.count("rankings do without the store") <= 4


def test_a_redis_that_hangs_delays_an_answer_no_longer_than_its_limit(
    tmp_path: Path, registry: Path, kit: SimpleNamespace
) -> None:
    with EmbeddedRedis() as own, kit.serving(tmp_path, registry, own.url, redis_timeout_ms=50) as server:
        own_process = own.pid
        subprocess.run(["kill", "-STOP", str(own_process)], check=True)
        try:
            assert server.rank(["1"]).json()["degraded"] == ["store_unavailable"]
            late = server.rank(["1"], timeout_ms=20)
            assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
            assert server.http.get("/livez").status_code == 200
        finally:
            subprocess.run(["kill", "-CONT", str(own_process)], check=True)
        kit.wait_until(
            lambda: "store_unavailable" not in server.rank(["1"]).json()["degraded"],
            recovery="Redis hanging, from when it goes on",
        )


def test_more_work_than_allowed_is_shed_at_once(tmp_path: Path, registry: Path, kit: SimpleNamespace) -> None:
    with (
        EmbeddedRedis() as own,
        kit.serving(
            tmp_path, registry, own.url, redis_timeout_ms=30_000, max_inflight=2, default_timeout_ms=60_000
        ) as server,
    ):
        subprocess.run(["kill", "-STOP", str(own.pid)], check=True)
        answers: list[httpx.Response] = []
        body = {"user_id": "1", "candidates": ["1"]}
        threads = [
            threading.Thread(target=lambda: answers.append(fresh_http.post(f"{server.url}/rank", json=body)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        kit.wait_until(lambda: len(answers) == 4)
        subprocess.run(["kill", "-CONT", str(own.pid)], check=True)
        for thread in threads:
            thread.join()
        assert sorted(a.status_code for a in answers) == [200, 200, 503, 503, 503, 503]
        shed = next(a for a in answers if a.status_code == 503)
        assert (shed.json()["code"], shed.headers["retry-after"]) == ("overloaded", "1")
        assert counters(server, "funnelrank_inflight_requests") == {"funnelrank_inflight_requests": 0}


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_fails_readiness_first_and_loses_no_request(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any, workers: int
) -> None:
    with kit.serving(tmp_path, registry, redis_server.url, workers=workers, drain_ms=1500) as server:
        server.process.send_signal(signal.SIGTERM)
        kit.wait_until(lambda: server.http.get("/readyz").status_code == 503)
        assert "draining" in server.http.get("/readyz").json()["detail"]
        answer = server.rank(["1"])
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert server.process.wait(timeout=20) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_that_are_repeated_until_the_end_change_neither_the_exit_code_nor_an_answer(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, workers: int
) -> None:
    with (
        EmbeddedRedis() as own,
        kit.serving(
            tmp_path, registry, own.url, workers=workers, redis_timeout_ms=30_000, default_timeout_ms=60_000, drain_ms=0
        ) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        os.kill(own.pid, signal.SIGSTOP)
        answer = pool.submit(server.rank, ["1"])
        with fresh_http.client(base_url=server.url) as other:
            kit.wait_until(lambda: "funnelrank_inflight_requests 1.0" in other.get("/metrics").text)
        signals = itertools.cycle([signal.SIGTERM, signal.SIGHUP])
        server.process.send_signal(signal.SIGTERM)
        kit.wait_until(lambda: "Shutting down" in server.log_lines)
        for number in itertools.islice(signals, 10):
            server.process.send_signal(number)
            time.sleep(0.02)
        os.kill(own.pid, signal.SIGCONT)
        while server.process.poll() is None:
            server.process.send_signal(next(signals))
            time.sleep(0.001)
        assert answer.result().status_code == 200
        assert server.process.returncode == 0


def test_a_request_in_work_is_finished_after_sigterm(tmp_path: Path, registry: Path, kit: SimpleNamespace) -> None:
    with (
        EmbeddedRedis() as own,
        kit.serving(
            tmp_path, registry, own.url, redis_timeout_ms=30_000, default_timeout_ms=60_000, drain_ms=0
        ) as server,
    ):
        server.rank(["1"])
        subprocess.run(["kill", "-STOP", str(own.pid)], check=True)
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(server.rank(["1"])))
        thread.start()
        with fresh_http.client(base_url=server.url) as other:
            kit.wait_until(lambda: "funnelrank_inflight_requests 1.0" in other.get("/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        kit.wait_until(lambda: "Shutting down" in server.log_lines)
        subprocess.run(["kill", "-CONT", str(own.pid)], check=True)
        thread.join()
        assert answers[0].status_code == 200
        assert server.process.wait(timeout=20) == 0


def test_a_store_of_another_schema_at_the_start_is_not_ranked_from(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    store.hset(SCHEMAS, "0123456789abcdef", '{"schema": {"user": [], "item": [1]}}')
    with kit.serving(tmp_path, registry, redis_server.url, wait_for="/livez") as server:
        answer = server.rank(["1"])
        assert (answer.status_code, answer.json()["code"]) == (503, "schema_not_loaded")
        assert "0123456789abcdef" in answer.json()["detail"]
        ready = server.http.get("/readyz")
        assert ready.status_code == 503
        assert "schema_not_loaded" in ready.json()["detail"]


def start_fails(environment: dict[str, str]) -> str:
    """The message of `serve` when it does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        cwd=Path(__file__).parents[3],
        env={"PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_start_that_cannot_work_says_why_and_exits(tmp_path: Path, registry: Path) -> None:
    (tmp_path / "empty").mkdir()
    fusion = tmp_path / "fusion.yaml"
    fusion.write_text("profiles: {default: {kind: weighted_sum, weights: {plike: 1}}}")
    changed = shutil.copytree(registry, tmp_path / "changed")
    (changed / "synthetic" / "1" / "model.onnx").write_bytes(b"x")
    without_manifest = shutil.copytree(registry, tmp_path / "without-manifest")
    (without_manifest / "synthetic" / "1" / "manifest.json").unlink()
    settings_by_reason: dict[str, dict[str, Any]] = {
        "FUNNELRANK_REGISTRY": {"REGISTRY": tmp_path / "nowhere"},
        "rollout.json does not exist": {"REGISTRY": tmp_path / "empty"},
        "FUNNELRANK_WORKERS": {"REGISTRY": registry, "WORKERS": "0"},
        "plike, which the model lacks": {"REGISTRY": registry, "FUSION_FILE": fusion},
        "hash_mismatch": {"REGISTRY": changed},
        "bundle_missing": {"REGISTRY": without_manifest},
    }
    environments = [
        {f"FUNNELRANK_{name}": str(value) for name, value in settings.items()}
        for settings in settings_by_reason.values()
    ]
    with ThreadPoolExecutor(2) as pool:
        for reason, output in zip(settings_by_reason, pool.map(start_fails, environments), strict=True):
            assert reason in output


def test_a_bundle_that_is_bad_at_the_start_leaves_the_service_alive_and_not_ready(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    kit.publish(registry, "2", golden_nan=True)
    for document in registry.glob("*rollout.json*"):
        document.unlink()
    kit.go_live(registry, "2")  # the first document, so that no earlier version could serve instead
    with kit.serving(tmp_path, registry, redis_server.url, wait_for="/livez") as server:
        answer = server.rank(["1"])
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "golden_not_finite" in answer.json()["detail"]
        assert "golden_not_finite" in server.http.get("/readyz").json()["detail"]
        assert server.put("/models/rollout", {"stable": {"name": "synthetic", "version": "1"}}).status_code == 200
        kit.wait_until(lambda: server.http.get("/readyz").status_code == 200)
        assert server.rank(["1"]).json()["model"]["version"] == "1"


def test_without_a_token_only_loopback_may_operate(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    body = {"stable": {"name": "synthetic", "version": "1"}}
    with kit.serving(tmp_path, registry, redis_server.url, admin_token="") as server:
        assert server.http.put("/models/rollout", json=body).status_code == 200
        forwarded = server.http.put("/models/rollout", json=body, headers={"X-Forwarded-For": "10.0.0.1"})
        assert (forwarded.status_code, forwarded.json()["code"]) == (403, "forbidden")
    with kit.serving(tmp_path, registry, redis_server.url, admin_token="", host="0.0.0.0") as server:
        answer = server.http.put("/models/rollout", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert server.http.put("/features/items", json={"items": []}).status_code == 403


def test_log_lines_are_json(server: Any) -> None:
    for line in server.log_lines.splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


def test_without_a_token_a_page_in_a_browser_on_this_machine_may_not_operate(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    body = {"stable": {"name": "synthetic", "version": "1"}}
    with kit.serving(tmp_path, registry, redis_server.url, admin_token="") as server:
        own = server.url
        port = server.url.rsplit(":", 1)[1]
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost:3000"},
            {"Host": f"evil.example:{port}"},
            {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
            {"Host": f"127.0.0.1.evil.example:{port}"},
            {"Host": "["},
            {"X-Real-IP": "10.0.0.1"},
            {"Forwarded": "for=10.0.0.1"},
        ):
            for method, path in (
                ("PUT", "/models/rollout"),
                ("POST", "/models/rollback"),
                ("POST", "/fusion/rollback"),
                ("PUT", "/fusion"),
            ):
                answer = server.http.request(method, path, json=body, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (headers, path)
        for headers in (
            {},
            {"Origin": own},
            {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
            {"Host": f"[::1]:{port}"},
        ):
            assert server.http.put("/models/rollout", json=body, headers=headers).status_code == 200, headers


def test_a_token_may_be_any_text(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any
) -> None:
    token = "schlüssel 汉字"
    with kit.serving(tmp_path, registry, redis_server.url, admin_token=token) as server:
        for sent, status in ((token, 409), (token[:-1], 401), (token + "x", 401)):
            answer = server.http.post("/models/rollback", headers={"Authorization": f"Bearer {sent}".encode()})
            assert answer.status_code == status, answer.text
            assert "schl" not in answer.text
    assert "schl" not in server.log_lines
