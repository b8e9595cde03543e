"""The locust part: users that send due requests, and the shape that moves the load from phase to phase."""

import time
from collections.abc import Iterator
from typing import Any

import gevent
import orjson
from locust import FastHttpUser, LoadTestShape, task

from loadtest.checks.answers import Judgement, judge
from loadtest.options import Plan
from loadtest.phases import Phase
from loadtest.workload.workload import Workload

# A user without a due request checks again after this time, which is shorter than the gap between phases.
IDLE_S = 0.02


class RunningLoad:
    """One run: the plan, the workload, the present phase and all phases so far."""

    def __init__(self, plan: Plan, workload: Workload, phases: Iterator[Phase]) -> None:
        self.plan = plan
        self.workload = workload
        self._coming = phases
        self.phase: Phase | None = None
        self.past: list[Phase] = []

    def advance(self) -> bool:
        """Close a phase that is over and begin the next; return False when there is none left."""
        if self.phase is not None:
            if not self.phase.is_over(time.perf_counter()):
                return True
            self.phase.close()
            self.past.append(self.phase)
        self.phase = next(self._coming, None)
        if self.phase is not None:
            self.phase.begin(time.perf_counter())
        return self.phase is not None


class PhasedShape(LoadTestShape):
    """Keeps the number of users constant and the phases moving; the load of a phase is its rate, not its users."""

    abstract = False
    use_common_options = True
    load: RunningLoad | None = None

    def tick(self) -> tuple[int, float] | None:
        if self.load is None or self.runner is None:
            return None
        users = self.load.plan.users
        if self.runner.user_count < users:
            return users, users
        return (users, users) if self.load.advance() else None


class RankingUser(FastHttpUser):
    """One connection.

    Takes the next request of the shared schedule, waits for its time, sends it, and judges the answer.
    """

    abstract = True
    load: RunningLoad

    @task
    def rank(self) -> None:
        phase = self.load.phase
        due = phase.take() if phase is not None else None
        if phase is None or due is None:
            gevent.sleep(IDLE_S)
            return
        request = self.load.workload.next_request()
        wait_s = due - time.perf_counter()
        if wait_s > 0:
            gevent.sleep(wait_s)
            # This user was free in time, so the load generator causes the rest of the delay.
            phase.measurements.generator_lags_ms.append((time.perf_counter() - due) * 1000)
        self._send(phase, due, request)

    def _send(self, phase: Phase, due: float, request: dict[str, Any]) -> None:
        sent = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        if self.load.plan.key:
            headers["Authorization"] = f"Bearer {self.load.plan.key}"
        with self.client.post(
            "/rank", data=orjson.dumps(request).decode(), headers=headers, name=phase.name, catch_response=True
        ) as response:
            done = time.perf_counter()
            # Locust would count from the sending, so a request that had to wait for a free user would seem fast.
            response.request_meta["response_time"] = (done - due) * 1000
            answer = self._judge(response, request)
            if answer.fault is None:
                response.success()
            else:
                response.failure(answer.fault)
        phase.finished += 1
        if not phase.closed:
            phase.measurements.record(answer, (done - due) * 1000, (done - sent) * 1000)

    def _judge(self, response: Any, request: dict[str, Any]) -> Judgement:
        if response.status_code == 0:
            return Judgement(f"no answer: {type(response.error).__name__}")
        return judge(response.status_code, response.content, request, self.load.plan.allow_degraded)


def user_class(load: RunningLoad) -> type[RankingUser]:
    """Return the user class of one run, bound to its load and service."""
    timeout_s = load.plan.timeout_s
    members = {
        "load": load,
        "host": load.plan.url,
        "abstract": False,
        "network_timeout": timeout_s,
        "connection_timeout": timeout_s,
    }
    return type("Ranker", (RankingUser,), members)
