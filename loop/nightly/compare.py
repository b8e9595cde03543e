"""Compares a trained run with the live version on the newest matured impressions, which neither was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loop.errors import LogError
from loop.log.hours import HOUR_MS, hour_files, hour_name
from loop.nightly.config import CompareSection
from loop.proof.again import open_bundle, task_scores
from loop.proof.records import exposures_of, layouts_of
from models.metrics.paired import PairedMetric, paired_difference
from models.prediction.rows import ScoredRows, score_run
from models.structures.base import Output
from models.training.run import open_run
from service.bundle.registry import Target
from tables.log_records import RecordKind

_PROBABILITY = "probability"
_CHANCE: Mapping[PairedMetric, float] = {"auc": 0.5, "gauc": 0.5}


@dataclass
class TaskComparison:
    """A task's metric of the live version and of the new run, and why the run is refused for it (empty: it is not).

    `low` and `high` bound the gain over the live version; `positives` counts labels that are yes.
    """

    task: str
    metric: PairedMetric
    margin: float
    impressions: int
    positives: int
    users: int
    live: float | None = None
    new: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    refusal: str = ""


@dataclass
class ModelComparison:
    """The comparison of every task. `unscored` counts exposures that the live version could not score, by reason."""

    live: str
    impressions: int
    scored_by_live: int = 0
    tasks: list[TaskComparison] = field(default_factory=list)
    unscored: dict[str, int] = field(default_factory=dict)

    @property
    def refusals(self) -> list[str]:
        return [f"{each.task}: {each.refusal}" for each in self.tasks if each.refusal]


def compare(
    log: Path, registry: Path, live: Target | None, run: Path, cache: Path, section: CompareSection
) -> ModelComparison:
    """Compare on the run's test part. Without a live version each task must be better than chance. Raises LogError."""
    rows = score_run(run, "test", cache)
    outputs = {output.name: output for output in open_run(run).ranker.outputs}
    for task in section.margins:
        if task not in outputs or outputs[task].kind.type != _PROBABILITY:
            known = ", ".join(name for name, output in outputs.items() if output.kind.type == _PROBABILITY)
            raise LogError(f"compare.margins: '{task}' is no probability of the model; it has {known}")
    result = ModelComparison(str(live) if live else "none", len(rows))
    # Score the same impressions with the live version.
    inside = np.ones(len(rows), dtype=bool)
    live_scores: dict[str, np.ndarray] = {}
    if live is not None:
        live_scores = _live_scores(log, registry, live, rows, list(section.margins), result)
        inside = np.all([np.isfinite(scores) for scores in live_scores.values()], axis=0)
        result.scored_by_live = int(inside.sum())
        if result.scored_by_live < section.min_coverage * len(rows):
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in result.unscored.items())
            raise LogError(
                f"the live version {live} scored {result.scored_by_live:,} of {len(rows):,} impressions, and "
                f"compare.min_coverage asks for {section.min_coverage:.0%} ({reasons or 'the log lacks the others'})"
            )
    for task, margin in section.margins.items():
        result.tasks.append(compare_task(rows, outputs[task], live_scores.get(task), inside, margin, section.metric))
    return result


def _live_scores(
    log: Path, registry: Path, live: Target, rows: ScoredRows, tasks: list[str], result: ModelComparison
) -> dict[str, np.ndarray]:
    """The live version's scores of each impression `[n]` by task; NaN where the log has no exposure that it reads."""
    bundle = open_bundle(registry, live.name, live.version)
    missing = [task for task in tasks if task not in bundle.tasks]
    if missing:
        raise LogError(f"compare.margins: the live version {live} has no task '{missing[0]}'; it has {bundle.tasks}")
    requests = rows.request_id
    assert requests is not None  # a join writes one
    place_of = {pair: place for place, pair in enumerate(zip(requests, rows.item_id, strict=True))}
    known_requests = set(requests)
    scores = {task: np.full(len(rows), np.nan) for task in tasks}
    for exposure in exposures_of(log, _hours_since(log, int(rows.time_ms.min()))):
        if exposure["request_id"] not in known_requests:
            continue
        try:
            predicted = task_scores(exposure, layouts_of(log, exposure["schema"]), bundle)
        except LogError as error:
            result.unscored[str(error)] = result.unscored.get(str(error), 0) + 1
            continue
        for at, item in enumerate(exposure["item_ids"]):
            place = place_of.get((exposure["request_id"], item))
            if place is not None:
                for task in tasks:
                    scores[task][place] = predicted[bundle.tasks.index(task), at]
    return scores


def _hours_since(log: Path, time_ms: int) -> list[str]:
    """The hours in which exposures of this time or later were logged; clocks of callers may be an hour ahead."""
    first = hour_name(time_ms // HOUR_MS - 1)
    names = [path.parent.name for path in hour_files(log, RecordKind.EXPOSURES)]
    return [name for name in names if name >= first]


def compare_task(
    rows: ScoredRows,
    output: Output,
    live: np.ndarray | None,
    inside: np.ndarray,
    margin: float,
    metric: PairedMetric,
) -> TaskComparison:
    """Compare one task; `inside` bool `[n]` are the impressions that the live version scored, by `live` `[n]`."""
    # The impressions of the output's space, labelled with its label.
    picked = inside.copy()
    for column in output.space:
        picked &= rows.labels[column] > 0
    labels = np.ones(len(rows), dtype=np.float64)
    for column in output.label:
        labels *= rows.labels[column]
    label = labels[picked]
    users = _numbers(rows.user_id)[picked]
    assert rows.request_id is not None
    groups = _numbers(rows.request_id)[picked]
    new = rows.scores[output.name].astype(np.float64)[picked]
    counts = (len(label), int(label.sum()), len(np.unique(users)))
    done = TaskComparison(output.name, metric, margin, *counts)
    if counts[1] in (0, counts[0]):
        done.refusal = f"all {counts[0]:,} matured labels are alike, so nothing can be compared"
        return done
    broken = int((~np.isfinite(new)).sum())
    if broken:
        done.refusal = f"{broken:,} of {len(new):,} scores of the new model are not finite"
        return done
    difference = paired_difference(label, new if live is None else live[picked], new, users, groups, metric)
    done.new = difference.second
    if live is not None:
        done.live = difference.first
        done.gain = difference.gain
        done.low = difference.low
        done.high = difference.high
    done.refusal = _refusal(done, difference.second_low)
    return done


def _refusal(done: TaskComparison, new_low: float | None) -> str:
    chance = _CHANCE.get(done.metric)
    if done.new is None or new_low is None:
        return f"{done.metric} cannot be computed on {done.impressions:,} impressions of {done.users:,} users"
    if chance is not None and new_low <= chance:
        return f"{done.metric} {done.new:.4f} cannot be told from chance (it may be {new_low:.4f})"
    if done.low is not None and done.low < -done.margin:
        change = f"{done.gain:+.4f}, in 95 % [{done.low:+.4f}, {done.high:+.4f}]"
        return f"{done.metric} {done.new:.4f} against {done.live:.4f} ({change}) may be worse by over {done.margin:g}"
    return ""


def _numbers(names: list[str]) -> np.ndarray:
    """A number per different name, int64 `[n]`."""
    return np.unique(np.array(names, dtype=np.str_), return_inverse=True)[1]
