"""Scores partitions on a Ray cluster: one actor per core, or per FUNNELRANK_MODEL_THREADS cores."""

from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from batch.errors import BatchError
from batch.partition import BatchCounts
from batch.scorer import Scorer, ScorerStart
from batch.users import Partition

# Partitions that wait per actor, so that no actor waits for the table and memory stays bounded.
_WAITING = 2


class ScoringActor:
    """A scorer in a process of the cluster. Its methods are synchronous: Ray would run others in a loop of its own."""

    def __init__(self, start: ScorerStart) -> None:
        self._scorer = Scorer(start)

    def score(self, partition: Partition) -> BatchCounts:
        """Score a partition and write its file."""
        return self._scorer.score(partition)


def score_on_ray(start: ScorerStart, partitions: Iterator[Partition], address: str) -> Iterator[BatchCounts]:
    """Score partitions on the cluster at `address` (`local`: on this machine); yield their counts as they come.

    Every node sees the registry and the output folder under the same paths. Raises BatchError, TableError and OSError.
    """
    with ray.init(address, log_to_driver=False):
        threads = start.settings.model_threads
        count = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        remote = ray.remote(num_cpus=threads)(ScoringActor)
        actors = [remote.remote(start) for _ in range(count)]
        running: dict[Any, Any] = {}  # Ray's reference of a result, and the actor that computes it
        try:
            for place, partition in enumerate(partitions):
                # The actor that has just become free gets the next partition; at first, all in turn.
                actor = actors[place % count]
                if len(running) >= count * _WAITING:
                    done, actor = _first_done(running)
                    yield done
                running[actor.score.remote(partition)] = actor
            while running:
                yield _first_done(running)[0]
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            raise BatchError(f"a scoring actor died; run the same command again to continue: {error}") from None


def _first_done(running: dict[Any, Any]) -> tuple[BatchCounts, Any]:
    """Wait for one partition; return its counts and the actor that scored it."""
    done, _ = ray.wait(list(running))
    actor = running.pop(done[0])
    return ray.get(done[0]), actor
