"""Tests the keys of one worker: what is accepted before the document was read, and the cost of wrong keys."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.api.access.caller_keys import admitted
from service.api.problems import RateLimited
from service.callers import callers as module
from service.callers.callers import MOST_KEY_BYTES, Callers
from service.callers.document import DOCUMENT, CallerRole, add_caller, hash_of, rotate_key
from service.documents import Edit
from service.errors import NotReady
from service.metrics.metrics import Metrics
from service.settings import Settings
from service.store.opening import open_writer


def callers_of(registry: Path, admin_token: str = "secret") -> Callers:
    """The callers of a worker. The writer connects when it is used, which it is not."""
    settings = Settings.from_environment(
        {"FUNNELRANK_REGISTRY": str(registry), "FUNNELRANK_ADMIN_TOKEN": admin_token, "FUNNELRANK_WORKERS": "4"}
    )
    return Callers(settings, open_writer("redis://127.0.0.1:1", 1000), Metrics())


async def test_before_the_document_is_read_only_the_admin_token_is_accepted(tmp_path: Path) -> None:
    key = add_caller(tmp_path, "shop", CallerRole.READ, None, "me").encode()
    callers = callers_of(tmp_path)
    assert (callers.grants is not None, callers.is_read) == (True, False)
    assert callers.grant_of(key) is None
    admin = callers.grant_of(b"secret")
    assert admin is not None and admin.role == CallerRole.OPERATE
    with pytest.raises(NotReady):
        admitted({"method": "POST", "path": "/rank", "headers": []}, callers, 0.0, True)
    await callers.step()
    assert callers.is_read
    grant = callers.grant_of(key)
    assert grant is not None and (grant.name, grant.role) == ("shop", CallerRole.READ)


async def test_without_a_document_no_keys_are_asked_for(tmp_path: Path) -> None:
    callers = callers_of(tmp_path)
    await callers.step()
    assert callers.grants is None


async def test_without_an_admin_token_the_empty_key_is_not_accepted(tmp_path: Path) -> None:
    add_caller(tmp_path, "shop", CallerRole.READ, None, "me")
    callers = callers_of(tmp_path, admin_token="")
    await callers.step()
    assert callers.grant_of(b"") is None


async def test_a_registry_that_hangs_leaves_the_keys_and_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add_caller(tmp_path, "shop", CallerRole.READ, None, "me").encode()
    callers = callers_of(tmp_path)
    await callers.step()
    held = module.file_signature
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "file_signature", lambda path: time.sleep(0.5) or held(path))
    rotated = rotate_key(tmp_path, "shop", timedelta(0), "me").encode()
    for _ in range(3):
        await callers.step()
    assert callers.problem
    assert callers.grant_of(key) is not None
    monkeypatch.setattr(module, "file_signature", held)
    end = time.monotonic() + 30
    while callers.grant_of(rotated) is None and time.monotonic() < end:
        await callers.step()
        time.sleep(0.01)
    assert (callers.grant_of(rotated) is not None, callers.grant_of(key), callers.problem) == (True, None, "")


async def test_the_rate_is_shared_by_the_workers_and_by_the_keys_of_a_caller(tmp_path: Path) -> None:
    first = add_caller(tmp_path, "shop", CallerRole.READ, 100, "me").encode()
    second = rotate_key(tmp_path, "shop", timedelta(hours=1), "me").encode()
    callers = callers_of(tmp_path)
    await callers.step()
    buckets = [grant.bucket for grant in map(callers.grant_of, (first, second)) if grant is not None]
    assert buckets[0] is buckets[1] is not None
    assert buckets[0].rate == 25
    add_caller(tmp_path, "other", CallerRole.READ, 1, "me")
    await callers.step()
    grant = callers.grant_of(second)
    assert grant is not None and grant.bucket is buckets[0]


def cost_of_wrong_keys(registry: Path, count: int) -> float:
    """CPU seconds of 20,000 wrong keys where a document has `count` callers."""
    now = datetime.now(UTC).isoformat()
    callers = [
        {"name": f"c{i}", "role": "read", "keys": [{"sha256": hash_of(b"%d" % i).hex(), "created_at": now}]}
        for i in range(count)
    ]
    registry.mkdir()
    DOCUMENT.change(registry, lambda _before: {"callers": callers}, Edit("me"))
    worker = callers_of(registry)
    worker._look()
    keys = [b"fr_%043d" % i for i in range(20_000)]
    rounds = []
    for _ in range(5):
        started = time.thread_time()
        assert not any(map(worker.grant_of, keys))
        rounds.append(time.thread_time() - started)
    return min(rounds)


def test_a_wrong_key_costs_the_same_however_many_callers_there_are(tmp_path: Path) -> None:
    few = cost_of_wrong_keys(tmp_path / "few", 10)
    many = cost_of_wrong_keys(tmp_path / "many", 2_000)
    assert many < 2.5 * few
    print(f"{few / 20_000 * 1e6:.2f} us per wrong key")


def test_a_key_that_is_too_long_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []
    callers = callers_of(tmp_path)
    monkeypatch.setattr(module, "hash_of", lambda key: hashed.append(key) or hash_of(key))
    for length in (MOST_KEY_BYTES, MOST_KEY_BYTES + 1, 60_000):
        assert callers.grant_of(b"x" * length) is None
    assert [len(key) for key in hashed] == [MOST_KEY_BYTES]


async def test_a_tiny_rate_answers_429_with_a_finite_wait(tmp_path: Path) -> None:
    key = add_caller(tmp_path, "shop", CallerRole.READ, 1e-320, "me").encode()
    callers = callers_of(tmp_path)
    await callers.step()
    scope = {"method": "POST", "path": "/rank", "headers": [(b"authorization", b"Bearer " + key)]}
    assert admitted(scope, callers, 1.0, True) is not None
    with pytest.raises(RateLimited) as refused:
        admitted(scope, callers, 2.0, True)
    assert refused.value.headers["Retry-After"] == "86400"
