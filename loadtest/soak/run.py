"""The soak: traffic, events, hostile callers, swaps, canaries, weight changes and faults together."""

import json
import logging
import random
import threading
import time
from collections.abc import Callable

from loadtest.soak.checks import growth
from loadtest.soak.hostile import HOSTILE
from loadtest.soak.jobs import break_something, change_weights, measure, operate, rank, send_event
from loadtest.soak.state import MAX_GROWTH, PROFILES, Soak, SoakOptions

log = logging.getLogger("funnelrank.soak")


def repeat(soak: Soak, job: Callable[[Soak, random.Random], None], seed: int) -> None:
    rng = random.Random(seed)  # nosec B311 # chaos that can be repeated, no secret
    while not soak.stop.is_set():
        try:
            job(soak, rng)
        except Exception as error:
            log.exception("%s broke off", job.__name__)
            soak.fail(f"{job.__name__}: {type(error).__name__}: {error}")
            time.sleep(0.5)


def run(options: SoakOptions) -> int:
    """Run the soak and return the exit code; the summary is printed as JSON on stdout."""
    versions = sorted(folder.name for folder in options.bundle.parent.iterdir() if folder.is_dir())
    soak = Soak(options, [f"{options.bundle.parent.name}/{version}" for version in versions])
    change_weights(soak, PROFILES[0])
    time.sleep(2.0)  # until every worker has the soak's own profile
    jobs = [rank] * options.clients + [send_event, operate, break_something, measure, *HOSTILE]
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
