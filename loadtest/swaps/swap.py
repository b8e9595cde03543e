"""Rolls out one published version after another under load, to show whether swapping costs requests."""

import json
from dataclasses import dataclass, field

import gevent

from loadtest.options import Plan
from service.sample.calls import call

PUT_TIMEOUT_S = 10.0


@dataclass
class Swaps:
    """The versions that were rolled out, and the refusals."""

    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def missing_from(self, seen: set[str]) -> list[str]:
        """Return the rolled-out versions that never answered a request."""
        return sorted(set(self.done) - seen)


def keep_swapping(plan: Plan, swaps: Swaps) -> None:
    """Roll out the plan's versions in turn, one every `swap_every_s`, until the greenlet is killed."""
    turn = 0
    while True:
        model = plan.swap[turn % len(plan.swap)]
        refusal = roll_out(plan.url, model, plan.admin_token)
        if refusal is None:
            swaps.done.append(model)
        else:
            swaps.refused.append(f"{model}: {refusal}")
        turn += 1
        gevent.sleep(plan.swap_every_s)


def roll_out(url: str, model: str, token: str) -> str | None:
    """PUT /models/rollout with `model` ("name/version") as the stable version; return the problem, or None."""
    name, _, version = model.partition("/")
    body = {"stable": {"name": name, "version": version}}
    status, answer = call("PUT", f"{url.rstrip('/')}/models/rollout", body, token, PUT_TIMEOUT_S)
    if status == 200:
        return None
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return f"HTTP {status} {text[:300]}" if status else text
