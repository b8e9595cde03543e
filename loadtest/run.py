"""One run from plan to result: sets locust up as a library, waits for the last phase, collects the measurements."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from locust.env import Environment
from locust.html import get_html_report
from locust.stats import stats_history

from loadtest.options import Plan
from loadtest.phases import Phase, steady_load, stepped_load
from loadtest.swaps.swap import Swaps, keep_swapping
from loadtest.users import PhasedShape, RunningLoad, user_class
from loadtest.workload.workload import Workload, read_popularity


@dataclass(frozen=True)
class Result:
    """The counted phases of a run, oldest first, and the swaps made during them."""

    plan: Plan
    phases: list[Phase]
    swaps: Swaps

    @property
    def models(self) -> Counter[str]:
        return sum((phase.measurements.models for phase in self.phases), Counter[str]())

    def best(self) -> Phase | None:
        """The phase of the highest rate that held the limit."""
        held = [phase for phase in self.phases if phase.measurements.holds(self.plan.p99_limit_ms)]
        return max(held, key=lambda phase: phase.rate, default=None)

    def faults(self) -> list[str]:
        """Why this run failed; empty if it did not. Steps of a search may fail, but at least one must hold."""
        if self.plan.find_limit:
            return [] if self.best() else [f"no step kept p99 within {self.plan.p99_limit_ms} ms without a failure"]
        faults = [
            f"{count} x {why}" for phase in self.phases for why, count in phase.measurements.failures.most_common()
        ]
        if not any(phase.measurements.latencies_ms for phase in self.phases):
            faults.append("nothing was answered")
        faults += [f"rollout refused: {refusal}" for refusal in self.swaps.refused]
        faults += [f"{model} was rolled out and never answered" for model in self.swaps.missing_from(set(self.models))]
        return faults


def prepare(plan: Plan) -> RunningLoad:
    """Read the ids and plan the phases. Raises WorkloadError if the data folder is not suitable."""
    rng = np.random.default_rng(plan.seed)
    users = read_popularity(plan.data, "users", "user_id", plan.zipf, rng)
    items = read_popularity(plan.data, "items", "item_id", plan.zipf, rng)
    fixed = {"scene": plan.scene, "context": plan.context or None, "top_k": plan.top_k}
    workload = Workload(
        users,
        items,
        plan.candidates,
        plan.unknown_share,
        {name: value for name, value in fixed.items() if value is not None},
        rng,
    )
    phases = stepped_load(plan, rng) if plan.find_limit else steady_load(plan, rng)
    return RunningLoad(plan, workload, phases)


def execute(plan: Plan) -> Result:
    """Send the load until its last phase ends, or until the time for all phases is over."""
    load = prepare(plan)
    environment = Environment(user_classes=[user_class(load)], shape_class=_shape(load), host=plan.url)
    runner = environment.create_local_runner()
    swaps = Swaps()
    background = [gevent.spawn(stats_history, runner)]
    if plan.swap:
        background.append(gevent.spawn(keep_swapping, plan, swaps))
    try:
        runner.start_shape()
        with gevent.Timeout(_longest_s(plan), False):
            gevent.joinall([runner.shape_greenlet])
    finally:
        gevent.killall(background)
        runner.quit()
    if plan.report is not None:
        _write(plan.report, get_html_report(environment, show_download_link=False))
    return Result(plan, [phase for phase in load.past if "warm-up" not in phase.name], swaps)


def _shape(load: RunningLoad) -> PhasedShape:
    shape = PhasedShape()  # type: ignore[no-untyped-call]
    shape.load = load
    return shape


def _longest_s(plan: Plan) -> float:
    """The longest run in seconds: all phases with their drains, two seconds each for locust's tick, and 30 more."""
    lengths = [plan.step_s] * plan.max_steps if plan.find_limit else [plan.duration_s]
    return sum(length + plan.drain_s + 2 for length in [plan.warmup_s, *lengths]) + 30


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def summary_of(result: Result) -> dict[str, Any]:
    """Return the result as the JSON that `--summary` writes."""
    plan = result.plan
    best = result.best()
    return {
        "url": plan.url,
        "users": plan.users,
        "candidates": plan.candidates.text,
        "seed": plan.seed,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "phases": [
            {"rate": phase.rate, "duration_s": phase.duration_s, **phase.measurements.summary()}
            for phase in result.phases
        ],
        "limit": {"p99_limit_ms": plan.p99_limit_ms, "rate": best.rate if best else None} if plan.find_limit else None,
        "swaps": {"done": len(result.swaps.done), "refused": result.swaps.refused},
        "faults": result.faults(),
    }
