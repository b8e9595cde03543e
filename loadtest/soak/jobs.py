"""The jobs of a soak's threads: rankings, events, operators' calls, faults, and measurements of the workers."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from loadtest.checks.answers import OWN_DOING
from loadtest.soak.checks import fault_in
from loadtest.soak.revisions import look_up_revision, record_revisions
from loadtest.soak.state import AFTERMATH_S, PROFILES, Soak


def rank(soak: Soak, rng: random.Random) -> None:
    """Send one ranking request and check the answer."""
    items = rng.sample(range(soak.options.items), rng.choice((5, 50, 200)))
    request = {"user_id": str(rng.randrange(500)), "candidates": [str(i) for i in items], "timeout_ms": 5000}
    excused = soak.fault_in_force()
    status, body = soak.call("POST", "/rank", request)
    if status == 200:
        look_up_revision(soak, body["fusion"]["revision"])
        fault = fault_in(body, request, soak.profiles, set(soak.versions))
        soak.count("degraded" if any(not d.startswith(OWN_DOING) for d in body["degraded"]) else "ranked")
        if fault is not None:
            soak.fail(fault)
    elif excused or soak.fault_in_force():
        soak.count(f"refused_{status}")
    else:
        soak.fail(f"HTTP {status}: {str(body)[:300]}")


def send_event(soak: Soak, rng: random.Random) -> None:
    """Send one event; it may be refused only during a fault."""
    event = {"user_id": str(rng.randrange(500)), "item_id": str(rng.randrange(soak.options.items)), "action": "click"}
    excused = soak.fault_in_force()
    status, body = soak.call("POST", "/events", {"events": [event | {"timestamp": int(time.time() * 1000)}]})
    soak.count("events" if status == 200 else f"events_{status}")
    if status != 200 and not (excused or soak.fault_in_force()):
        soak.fail(f"event: HTTP {status}: {str(body)[:300]}")


def operate(soak: Soak, rng: random.Random) -> None:
    """Make one change of the live versions."""
    kind = rng.choice(("stable", "canary", "shadow", "weights", "rollback", "bad"))
    soak.count(f"operator_{kind}")
    name, _, version = rng.choice(soak.versions).partition("/")
    if kind == "weights":
        change_weights(soak, rng.choice(PROFILES))
    elif kind == "rollback":
        soak.call("POST", "/models/rollback", {"author": "soak"})
    elif kind == "bad":
        _expect(soak, 404, "PUT", "/models/rollout", {"stable": {"name": name, "version": "never-published"}})
    else:
        target: dict[str, Any] = {"name": name, "version": version}
        if kind == "canary":
            target["percent"] = rng.choice((5, 50))
        _expect(soak, 200, "PUT", "/models/rollout", {kind: target, "author": "soak"})
    time.sleep(soak.options.operate_every_s)


def change_weights(soak: Soak, profile: dict[str, Any]) -> None:
    """Make a profile live, and record its revision."""
    while not soak.stop.is_set():
        document = _expect(soak, 200, "PUT", "/fusion", {"profiles": {"default": profile}, "author": "soak"})
        written = document is not None
        if not written:
            # A call without an answer may have written the profile anyway.
            _, document = soak.call("GET", "/fusion")
        record_revisions(soak, document)
        if written or not soak.fault_in_force():
            return


def _expect(soak: Soak, expected: int, method: str, path: str, body: dict[str, Any]) -> Any:
    """Return the answer to an operator's call; None for any other status, which is right only during a fault."""
    excused = soak.fault_in_force()
    status, answer = soak.call(method, path, body)
    if status == expected:
        return answer
    if excused or soak.fault_in_force():
        soak.count(f"operator_refused_{status}")
    else:
        soak.fail(f"{method} {path} {body}: {status} {answer}")
    return None


def break_something(soak: Soak, rng: random.Random) -> None:
    """Cause one fault: Redis hangs for a moment, or a worker is killed."""
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
    """Measure memory and files of all workers, except while one of them is being replaced."""
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
