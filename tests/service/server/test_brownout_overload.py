"""Tests a brown-out of two workers under overload: the steps that are taken, and how many callers are refused."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from bench.measuring.open_loop import Client, Load, highest_rate, offered, request_of
from service.bundle.registry import Target
from service.bundle.verify import read_manifest
from service.documents import Edit
from service.rollout.lines.changes import change_rollout
from service.sample.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[3]
IN_TIME_MS = 400
BURSTS = 20  # how a burst spreads over two workers is chance
ATTEMPTS = 3  # other work on the machine may hit one side of a comparison


def body(candidates: int, behaviours: int, **more: int) -> dict[str, object]:
    """A request with behaviours of its own, so that a shorter sequence saves something."""
    own = [{"item_id": str(i), "action": "click", "timestamp": 1_650_000_000_000 - i * 1000} for i in range(behaviours)]
    items = [str(i) for i in range(candidates)]
    return {"user_id": "712", "candidates": items, "behaviours": own} | more


def test_a_burst_is_ranked_in_all_steps_and_each_answer_names_its_own(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    kit.publish(registry, "1", name="small", bias=2.0)
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    request = request_of(body(300, 5))

    async def burst(port: int) -> list[tuple[int, bytes]]:
        client = Client(port)
        answers = await asyncio.gather(*(client.answer(request) for _ in range(60)))
        await client.close()
        return answers

    settings = {"workers": 2, "brownout": "true", "max_inflight": 24}
    with kit.serving(tmp_path, registry, redis_server.url, **settings) as server:
        # The costs of a ranking are known after a few.
        for _ in range(40):
            assert server.http.post("/rank", json=body(300, 5)).status_code == 200
        steps: Counter[str] = Counter()
        for _ in range(BURSTS):
            for status, content in uvloop.run(burst(int(server.url.rsplit(":", 1)[1]))):
                assert status in {200, 503}
                if status == 200:
                    ranking = json.loads(content)
                    named = [text for text in ranking["degraded"] if text.startswith("brownout")]
                    scored = ranking["coverage"]["scored"]
                    by_full_model = {"brownout:2": 30, "brownout:3": 0}
                    assert scored == by_full_model.get(named[0] if named else "", 300)
                    steps[named[0] if named else ""] += 1
            if all(steps[f"brownout:{step}"] for step in (1, 2, 3)):
                break
        assert all(steps[f"brownout:{step}"] for step in (1, 2, 3)), steps
        for step in (1, 2):
            line = f'funnelrank_brownout_rankings_total{{step="{step}"}} {float(steps[f"brownout:{step}"])}'
            kit.wait_until(lambda line=line: line in server.http.get("/metrics").text)


@pytest.mark.slow  # the search for the rate takes seconds
def test_fewer_callers_are_refused_than_without_a_brownout(
    tmp_path: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    """The sample's model ranks; a small one with the same features makes the first pass."""
    registry = tmp_path / "registry"
    shutil.copytree(ROOT / "sample" / "registry", registry)
    schema = read_manifest(registry / "kuairand-mmoe" / "3").feature_schema.model_dump(mode="json")
    kit.publish(registry, "1", name="small", schema=schema)
    change_rollout(registry, {"first_pass": Target(name="small", version="1")}, Edit("test"))
    request = request_of(body(1000, 50, timeout_ms=IN_TIME_MS, top_k=50))

    async def measured(plain: int, browned: int) -> tuple[float, Load, Load]:
        clients = [Client(plain), Client(browned)]
        for client in clients:
            await offered(client, [request], 10, 2)

        async def meets(rate: float) -> bool:
            return (await offered(clients[0], [request], rate, 1.5)).in_time(IN_TIME_MS) >= 0.97

        rate = await highest_rate(meets, start=40, factor=1.4)
        without, with_it = [await offered(client, [request], 1.8 * rate, 6, settling=1) for client in clients]
        for client in clients:
            await client.close()
        return rate, without, with_it

    settings = {"workers": 2, "max_wait_ms": 100}
    attempts = []
    with (
        kit.serving(tmp_path, registry, redis_server.url, **settings) as plain,
        kit.serving(tmp_path, registry, redis_server.url, brownout="true", **settings) as browned,
    ):
        for _ in range(ATTEMPTS):
            ports = [int(server.url.rsplit(":", 1)[1]) for server in (plain, browned)]
            rate, without, with_it = uvloop.run(measured(*ports))
            refused, refused_with = [len(load.ms.get(503, [])) for load in (without, with_it)]
            attempts.append(f"{rate:.0f}/s: {refused} of {without.requests}, {refused_with} of {with_it.requests}")
            print(attempts[-1])
            if refused_with < 0.7 * refused:
                break
        else:
            pytest.fail("; ".join(attempts))
        kit.wait_until(lambda: 'funnelrank_brownout_rankings_total{step="2"}' in browned.http.get("/metrics").text)
