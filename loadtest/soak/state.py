"""The state that the threads of a soak share: options, counts, and wrong answers."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.soak.checks import FORMULA
from service.sample.calls import call

# During a fault, and for this long after it, a refusal (503, 504) is an answer and not a failure.
AFTERMATH_S = 3.0
OF_CALLERS = frozenset({"/rank", "/events"})
MAX_GROWTH = {"memory_bytes": 1.2, "files": 1.2, "workers": 1.01}
PROFILES: list[dict[str, Any]] = [
    {"kind": "weighted_sum", "weights": {"pctr": 1.0}},
    {"kind": "weighted_sum", "weights": {"pctr": 3.0}},
    {"kind": "weighted_product", "weights": {"pctr": 0.7}},
    {"kind": "formula", "formula": FORMULA, "weights": {"a": 0.6}},
]


@dataclass(frozen=True)
class SoakOptions:
    """The options of a soak. `redis_pid` names a Redis on this host that may be paused for a second.

    Rankings and events are sent with `key`, operators' calls with `token`.
    """

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
    key: str = ""


@dataclass
class Soak:
    """One run and its counts. Threads share it; `lock` protects the counters."""

    options: SoakOptions
    versions: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    profiles: dict[int, dict[str, Any]] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=lambda: {"memory_bytes": [], "files": [], "workers": []})
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    fault_until: float = 0.0

    def count(self, outcome: str) -> None:
        with self.lock:
            self.counts[outcome] += 1

    def fail(self, fault: str) -> None:
        self.count("wrong")
        if len(self.wrong) < 20:
            self.wrong.append(fault)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and decoded answer; status 0 if there was none."""
        secret = self.key if path in OF_CALLERS else self.options.token
        return call(method, self.options.url.rstrip("/") + path, body, secret)

    @property
    def key(self) -> str:
        """What callers send: the token where no key is given."""
        return self.options.key or self.options.token

    def fault_in_force(self) -> bool:
        return time.monotonic() < self.fault_until
