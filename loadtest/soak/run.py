"""The soak: traffic, events, version swaps, canaries, weight changes and faults together, against a running service."""

import json
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.soak.checks import FORMULA, fault_in, growth
from service.sample.calls import call

log = logging.getLogger("funnelrank.soak")
# While a fault is in force, and this long after it, a refusal (503, 504) is an answer and no failure.
AFTERMATH_S = 3.0
MAX_GROWTH = {"memory_bytes": 1.2, "files": 1.2, "workers": 1.01}
PROFILES: list[dict[str, Any]] = [
    {"kind": "weighted_sum", "weights": {"pctr": 1.0}},
    {"kind": "weighted_sum", "weights": {"pctr": 3.0}},
    {"kind": "weighted_product", "weights": {"pctr": 0.7}},
    {"kind": "formula", "formula": FORMULA, "weights": {"a": 0.6}},
]


@dataclass(frozen=True)
class SoakOptions:
    """What to send and for how long. `redis_pid` names a Redis on this host that may be stopped for a second."""

    url: str
    token: str
    bundle: Path
    minutes: float = 60.0
    clients: int = 4
    items: int = 1000
    redis_pid: int | None = None
    operate_every_s: float = 2.0
    fault_every_s: float = 20.0
    seed: int = 1


@dataclass
class Soak:
    """One run and its counts. Threads share it; `lock` guards the counters."""

    options: SoakOptions
    versions: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    profiles: dict[int, dict[str, Any]] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=lambda: {"memory_bytes": [], "files": [], "workers": []})
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    fault_until: float = 0.0

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def fail(self, what: str) -> None:
        self.count("wrong")
        if len(self.wrong) < 20:
            self.wrong.append(what)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded answer; status 0 where there was none."""
        return call(method, self.options.url.rstrip("/") + path, body, self.options.token)

    def fault_in_force(self) -> bool:
        return time.monotonic() < self.fault_until


def rank(soak: Soak, rng: random.Random) -> None:
    """One ranking, judged."""
    items = rng.sample(range(soak.options.items), rng.choice((5, 50, 200)))
    request = {"user_id": str(rng.randrange(500)), "candidates": [str(i) for i in items], "timeout_ms": 5000}
    excused = soak.fault_in_force()
    status, body = soak.call("POST", "/rank", request)
    if status == 200:
        fault = fault_in(body, request, soak.profiles, set(soak.versions))
        soak.count("degraded" if any(not d.startswith("unknown") for d in body["degraded"]) else "ranked")
        if fault is not None and "was never live" in fault:
            time.sleep(1.0)  # the operator's own call may not have returned yet
            fault = fault_in(body, request, soak.profiles, set(soak.versions))
        if fault is not None:
            soak.fail(fault)
    elif excused or soak.fault_in_force():
        soak.count(f"refused_{status}")
    else:
        soak.fail(f"HTTP {status}: {str(body)[:300]}")


def send_event(soak: Soak, rng: random.Random) -> None:
    event = {"user_id": str(rng.randrange(500)), "item_id": str(rng.randrange(soak.options.items)), "action": "click"}
    status, _ = soak.call("POST", "/events", {"events": [event | {"timestamp": int(time.time() * 1000)}]})
    soak.count("events" if status == 200 else f"events_{status}")


def operate(soak: Soak, rng: random.Random) -> None:
    """One change of what is live."""
    kind = rng.choice(("stable", "canary", "shadow", "weights", "rollback", "bad"))
    soak.count(f"operator_{kind}")
    name, _, version = rng.choice(soak.versions).partition("/")
    if kind == "weights":
        change_weights(soak, rng.choice(PROFILES))
    elif kind == "rollback":
        soak.call("POST", "/models/rollback", {"author": "soak"})
    elif kind == "bad":
        status, _ = soak.call("PUT", "/models/rollout", {"stable": {"name": name, "version": "never-published"}})
        if status != 404:
            soak.fail(f"a version that does not exist was answered {status}")
    else:
        target: dict[str, Any] = {"name": name, "version": version}
        body = {kind: target | ({"percent": rng.choice((5, 50))} if kind == "canary" else {}), "author": "soak"}
        status, answer = soak.call("PUT", "/models/rollout", body)
        if status != 200:
            soak.fail(f"rollout {body}: {status} {answer}")
    time.sleep(soak.options.operate_every_s)


def change_weights(soak: Soak, profile: dict[str, Any]) -> None:
    status, document = soak.call("PUT", "/fusion", {"profiles": {"default": profile}, "author": "soak"})
    if status != 200:
        soak.fail(f"fusion {profile}: {status} {document}")
    else:
        soak.profiles[document["revision"]] = document["profiles"]["default"]


def break_something(soak: Soak, rng: random.Random) -> None:
    """One fault: Redis hangs for a moment, or a worker is killed."""
    redis_pid = soak.options.redis_pid
    done = "none"
    _, overview = soak.call("GET", "/models")
    workers = [w["pid"] for w in overview["workers"]] if isinstance(overview, dict) else []
    if redis_pid and rng.random() < 0.6:
        done = "redis_hangs"
        soak.fault_until = time.monotonic() + 1.0 + AFTERMATH_S
        os.kill(redis_pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(redis_pid, signal.SIGCONT)
    elif len(workers) > 1:
        done = "worker_killed"
        soak.fault_until = time.monotonic() + 20.0
        os.kill(rng.choice(workers), signal.SIGKILL)
    soak.count(f"fault_{done}")
    soak.stop.wait(soak.options.fault_every_s)


def measure(soak: Soak, _rng: random.Random) -> None:
    """Memory and files of all workers; a moment when one of them is being replaced is left out."""
    _, overview = soak.call("GET", "/models")
    if isinstance(overview, dict) and not soak.fault_in_force():
        pids = [w["pid"] for w in overview["workers"]]
        try:
            memory = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in pids) * os.sysconf(
                "SC_PAGE_SIZE"
            )
            files = sum(len(list(Path(f"/proc/{p}/fd").iterdir())) for p in pids)
        except OSError:
            return
        for name, value in (("memory_bytes", memory), ("files", files), ("workers", len(pids))):
            soak.samples[name].append(float(value))
    soak.stop.wait(1.0)


def repeat(soak: Soak, what: Callable[[Soak, random.Random], None], seed: int) -> None:
    rng = random.Random(seed)  # nosec B311 # chaos that can be repeated, no secret
    while not soak.stop.is_set():
        try:
            what(soak, rng)
        except Exception as error:
            log.exception("%s broke off", what.__name__)
            soak.fail(f"{what.__name__}: {type(error).__name__}: {error}")
            time.sleep(0.5)


def run(options: SoakOptions) -> int:
    """The exit code; the summary is JSON on stdout."""
    soak = Soak(
        options,
        [
            f"{options.bundle.parent.name}/{v}"
            for v in sorted(p.name for p in options.bundle.parent.iterdir() if p.is_dir())
        ],
    )
    change_weights(soak, PROFILES[0])
    time.sleep(2.0)  # until every worker has the soak's own profile
    jobs = [rank] * options.clients + [send_event, operate, break_something, measure]
    threads = [threading.Thread(target=repeat, args=(soak, job, options.seed + i)) for i, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    time.sleep(options.minutes * 60)
    soak.stop.set()
    for thread in threads:
        thread.join()
    grown = {name: round(growth(samples), 3) for name, samples in soak.samples.items()}
    too_much = [name for name, factor in grown.items() if factor > MAX_GROWTH[name]]
    workers = soak.samples["workers"]
    if workers and workers[-1] < max(workers):
        too_much.append("workers that were killed and not replaced")
    last = {name: samples[-1] if samples else None for name, samples in soak.samples.items()}
    summary = {
        "minutes": options.minutes,
        "counts": dict(sorted(soak.counts.items())),
        "growth": grown,
        "last": last,
        "wrong": soak.wrong,
        "faults": too_much,
    }
    print(json.dumps(summary, indent=2))
    return 1 if soak.wrong or too_much or not soak.counts["ranked"] else 0
