"""Tests rules that list items which the store does not have: the answer, the log and the command say which."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import yaml

from features import FeatureSchema
from features.layouts import Layouts
from features.nearest import near_names
from service.bundle.registry import Target
from service.documents import Edit
from service.rollout.lines.changes import change_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis import item_check
from service.store.redis.item_check import items_without_row
from service.store.redis.keys import item_key

ITEMS = ["7", "101", "102", "shoe-red", "Hat", "12"]
RULES: dict[str, Any] = {
    "default": [
        {"type": "pin", "item_id": "007", "position": 1},
        {"type": "block", "item_ids": ["102", "shoe-rad", "hat", "12.0", "@@@"]},
    ],
    "home": [{"type": "allow", "item_ids": ["7", "101", "007"]}],
}
WARNINGS = [
    "rules.default[0].item_id: the store has no item '007'; did you mean '7'?",
    "rules.default[1].item_ids: the store has no item 'shoe-rad'; did you mean 'shoe-red'?",
    "rules.default[1].item_ids: the store has no item 'hat'; did you mean 'Hat'?",
    "rules.default[1].item_ids: the store has no item '12.0'; did you mean '12'?",
    "rules.default[1].item_ids: the store has no item '@@@'",
]
NOT_CHECKED = "the item ids of the rules were not checked, because the store does not answer"


@pytest.fixture
def running(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> Iterator[Any]:
    with kit.serving(tmp_path, registry, redis_server.url) as server:
        items = [{"item_id": item_id, "features": {"price": 1}} for item_id in ITEMS]
        answer = server.put("/features/items", {"items": items})
        assert answer.status_code == 200, answer.text
        yield server


def command(file: Path, registry: Path, redis_url: str, *more: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"FUNNELRANK_REGISTRY": str(registry), "FUNNELRANK_REDIS_URL": redis_url}
    return subprocess.run(
        [sys.executable, "-m", "funnelrank", "rules", str(file), *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_listed_items_that_the_store_lacks_are_told_with_the_nearest(
    running: Any, tmp_path: Path, registry: Path, redis_server: EmbeddedRedis
) -> None:
    answer = running.put("/rules", {"rules": RULES})
    assert (answer.status_code, answer.json()["warnings"]) == (200, WARNINGS)
    logged = [json.loads(line)["message"] for line in running.log_lines.splitlines()]
    assert [line for line in logged if line in WARNINGS] == WARNINGS
    assert running.put("/rules", {"rules": {"default": []}}).json()["warnings"] == []
    back = running.http.post("/rules/rollback", headers={"Authorization": "Bearer secret"})
    assert back.json()["warnings"] == WARNINGS

    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"rules": RULES}))
    done = command(file, registry, redis_server.url)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("warning:")] == [
        f"warning: {line}" for line in WARNINGS
    ]


def test_many_items_that_the_store_lacks_are_counted(running: Any) -> None:
    many = [f"no-{place}" for place in range(1500)]
    answer = running.put("/rules", {"rules": {"default": [{"type": "block", "item_ids": many}]}})
    warnings = answer.json()["warnings"]
    assert len(warnings) == 22
    assert warnings[20:] == [
        "the store lacks 980 more items that the rules list",
        "only the first 1,000 of 1,500 listed items were looked for in the store",
    ]


def test_the_search_for_near_ids_is_bounded(
    redis_server: EmbeddedRedis, store: redis.Redis, layouts: Layouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Comparing one id with 1,000 others takes milliseconds, so 1,000 ids are not compared one by one."""
    store.mset({item_key(layouts.fingerprint, f"item-{i}"): b"x" for i in range(100)})
    sought: list[object] = []

    def near(name: object, known: Collection[str]) -> list[str]:
        sought.append(name)
        return near_names(name, known)

    monkeypatch.setattr(item_check, "near_names", near)
    listed = [f"itm-{i}" for i in range(1000)]
    absent = items_without_row(redis_server.url, layouts.fingerprint, listed)
    assert list(absent) == listed
    assert sought == listed[:50]
    assert (absent["itm-7"], absent["itm-700"]) == ("item-7", "")


def test_rules_hold_although_the_store_does_not_answer(tmp_path: Path, registry: Path, kit: SimpleNamespace) -> None:
    away = "redis://127.0.0.1:1"
    with kit.serving(tmp_path, registry, away, wait_for="/livez") as server:
        kit.wait_until(lambda: server.put("/rules", {"rules": {"default": []}}).status_code == 200)
        answer = server.put("/rules", {"rules": RULES})
        assert (answer.status_code, answer.json()["warnings"]) == (200, [NOT_CHECKED])
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"rules": RULES}))
    done = command(file, registry, away)
    assert done.returncode == 0
    assert f"warning: {NOT_CHECKED}" in done.stderr


def test_a_redis_user_who_may_not_list_keys_gets_other_forms_of_the_id(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    store.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "&*", "+@all", "-scan")
    try:
        url = redis_server.url.replace("redis://", "redis://narrow:pw@")
        with kit.serving(tmp_path, registry, url) as server:
            server.put("/features/items", {"items": [{"item_id": "7", "features": {"price": 1}}]})
            answer = server.put("/rules", {"rules": {"default": [{"type": "block", "item_ids": ["007", "71"]}]}})
            assert answer.json()["warnings"] == [
                "rules.default[0].item_ids: the store has no item '007'; did you mean '7'?",
                "rules.default[0].item_ids: the store has no item '71'",
            ]
    finally:
        store.execute_command("ACL", "DELUSER", "narrow")


def test_an_item_that_one_schema_of_the_lines_has_is_no_warning(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: redis.Redis
) -> None:
    """The command warns as the service does, and names what it could not check after the change was made."""
    other = json.loads(json.dumps(kit.SCHEMA))
    other["item"].append({"name": "colour", "type": "categorical"})
    kit.publish(registry, "2", schema=other)
    change_rollout(registry, {"line": "item_page", "stable": Target(name="synthetic", version="2")}, Edit("ann"))
    first, second = (FeatureSchema.model_validate(schema) for schema in (kit.SCHEMA, other))
    for layouts, item_id in ((Layouts.of(first), "7"), (Layouts.of(second), "8")):
        store.set(item_key(layouts.fingerprint, item_id), layouts.item.pack({}))
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"rules": {"default": [{"type": "block", "item_ids": ["7", "8", "007"]}]}}))
    done = command(file, registry, redis_server.url)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: rules.default[0].item_ids: the store has no item '007'; did you mean '7'?"]
    (registry / "synthetic/2/manifest.json").unlink()
    done = command(file, registry, redis_server.url)
    assert done.returncode == 0
    assert "warning: the item ids of the rules were not checked: " in done.stderr
