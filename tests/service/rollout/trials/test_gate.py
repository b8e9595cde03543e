"""Tests the gate: it measures CPU time, counts each user once, and refuses with the figures."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.bundle.loading import Bundle, load_bundle
from service.bundle.verify import BundleRejected
from service.rollout.recent import Assembly
from service.rollout.rollout import Limits
from service.rollout.trials.gate import FAILED, SLOW, gate


class Wrapped:
    """A session that does something else before each run."""

    def __init__(self, session: Any, before: Callable[[], object]) -> None:
        self._session = session
        self._before = before

    def run(self, *arguments: Any) -> Any:
        self._before()
        return self._session.run(*arguments)


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        np.sqrt(np.arange(1000.0))


def requests(kit: SimpleNamespace, bundle: Bundle, users: int, count: int = 20) -> list[Assembly]:
    """Requests of 64 candidates; those of one user are equal."""
    fingerprint = bundle.layouts.fingerprint
    inputs = [kit.golden_inputs(bundle.layouts) | {"user_keys": bundle.golden["user_keys"] + u} for u in range(users)]
    return [Assembly(fingerprint, str(i % users), inputs[i % users], ["1"] * 64) for i in range(count)]


def bundle_of(folder: Path, kit: SimpleNamespace, version: str, bias: float = 0.0) -> Bundle:
    return load_bundle(kit.publish(folder, version, bias=bias), threads=1, largest=50)


def test_what_waits_is_not_slow_and_what_computes_is(tmp_path: Path, kit: SimpleNamespace) -> None:
    live = bundle_of(tmp_path, kit, "1")
    recent = requests(kit, live, 20)
    waiting = replace(live, session=Wrapped(live.session, lambda: time.sleep(0.02)))
    assert gate(waiting, live, recent, Limits()).requests == 20
    busy = replace(live, session=Wrapped(live.session, lambda: work(0.02)))
    with pytest.raises(BundleRejected) as refusal:
        gate(busy, live, recent, Limits())
    assert refusal.value.code == SLOW


def test_requests_of_one_user_count_once(tmp_path: Path, kit: SimpleNamespace) -> None:
    live = bundle_of(tmp_path, kit, "1")
    other = bundle_of(tmp_path, kit, "2", bias=4.0)
    limits = Limits(min_scores=100)
    assert gate(other, live, requests(kit, live, 1, 60), Limits(psi=None)).requests == 1
    with pytest.raises(BundleRejected, match=r"score_drift: pctr: PSI .* on 60 recent requests"):
        gate(other, live, requests(kit, live, 60, 120), limits)


def broken() -> None:
    raise RuntimeError("no memory")


def test_a_version_that_fails_on_a_request_that_the_live_one_scores_is_refused(
    tmp_path: Path, kit: SimpleNamespace
) -> None:
    live = bundle_of(tmp_path, kit, "1")
    failing = replace(live, session=Wrapped(live.session, broken))
    with pytest.raises(BundleRejected, match=r"a recent request that synthetic/1 scores: no memory") as refusal:
        gate(failing, live, requests(kit, live, 3), Limits())
    assert refusal.value.code == FAILED


def test_a_live_version_that_fails_does_not_keep_its_successor_away(tmp_path: Path, kit: SimpleNamespace) -> None:
    new = bundle_of(tmp_path, kit, "1")
    outcomes = iter([None, RuntimeError("no memory"), None])

    def second_fails() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    live = replace(new, session=Wrapped(new.session, second_fails))
    assert gate(new, live, requests(kit, new, 3), Limits()).requests == 2
