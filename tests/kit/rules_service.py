"""Helpers for tests of rules over HTTP: a service whose scores are the items' prices, and calls to it."""

from types import SimpleNamespace
from typing import Any

import fresh_http
import httpx

TOKEN = {"Authorization": "Bearer secret"}
# The fusion score is the price, so that the order of the scores is 11, 10, ..., 0; two items share each tag.
FUSION = """
revision: 1
profiles:
  default: {kind: formula, formula: price + 0 * pctr}
scenes: {home: default, shop: default}
"""
ITEMS = [{"item_id": str(i), "features": {"price": i, "quality": 1, "tag": str(i // 2)}} for i in range(12)]
BY_PRICE = [str(i) for i in reversed(range(12))]
PIN: dict[str, Any] = {"type": "pin", "item_id": "0", "position": 2}
BLOCK: dict[str, Any] = {"type": "block", "item_ids": ["11"]}


def put(server: Any, *rules: dict[str, Any], scene: str = "default", **more: Any) -> httpx.Response:
    answer: httpx.Response = server.put("/rules", {"rules": {scene: rules} | more.pop("rules", {})} | more)
    return answer


def wait_for_revision(kit: SimpleNamespace, server: Any, revision: int) -> None:
    kit.wait_until(
        lambda: [w["rules_revision"] for w in server.http.get("/models").json()["workers"]] == [revision] * 2
    )


def hold(kit: SimpleNamespace, server: Any, *rules: dict[str, Any], scene: str = "default", **more: Any) -> None:
    """Write rules, and wait until both workers rank by them."""
    answer = put(server, *rules, scene=scene, **more)
    assert answer.status_code == 200, answer.text
    wait_for_revision(kit, server, answer.json()["revision"])


def rank(server: Any, **more: Any) -> Any:
    answer = fresh_http.post(f"{server.url}/rank", json={"user_id": "712", "candidates": ITEMS} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(body: Any) -> list[str]:
    return [entry["item_id"] for entry in body["ranking"]]
