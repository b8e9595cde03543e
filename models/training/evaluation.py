"""Scores a part of the data, and measures every output on it."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from models.data.batches import ordered_batches
from models.data.cache import Data, labels_of, lists_of
from models.kinds import PROBABILITY, Labelled
from models.kinds.base import rows_by_name
from models.layers.gates import entropy, similarity
from models.metrics.bootstrap import Draws
from models.metrics.ranking import CUTOFFS
from models.network.model import MultiTaskModel
from models.recipe import RecipeError
from models.training.device import device_of, on_device
from models.training.selection import cutoffs_of

EVALUATION_BATCH = 4096


def scores_of(ranker: MultiTaskModel, data: Data, part: str) -> dict[str, np.ndarray]:
    """Every output's score `[n]` in the part's order: log probabilities, or plain values."""
    was_training = ranker.training
    ranker.eval()
    collected: dict[str, list[np.ndarray]] = {name: [] for name in ranker.score_names}
    with torch.no_grad():
        for batch in on_device(ordered_batches(data, part, EVALUATION_BATCH), device_of(ranker)):
            for name, score in ranker(batch).items():
                collected[name].append(score.cpu().numpy())
    ranker.train(was_training)
    return {name: np.concatenate(pieces) for name, pieces in collected.items()}


def evaluate(ranker: MultiTaskModel, data: Data, part: str, draws: int = 0) -> dict[str, Any]:
    """`{"impressions": n, "grouped_by", "outputs": {name: metrics}, "extra": [...]}` of one part.

    Each output is measured on its own label and space; with `draws` there are bootstrap intervals.
    """
    scores = scores_of(ranker, data, part)
    return measure(ranker, data, part, scores, draws)


def measure(
    ranker: MultiTaskModel, data: Data, part: str, scores: Mapping[str, np.ndarray], draws: int = 0
) -> dict[str, Any]:
    """The metrics from every score `[n]` in the part's order."""
    outputs = {}
    for output in ranker.outputs:
        inside = labels_of(data, part, output.space) > 0
        labelled = _labelled(data, part, output.label, inside, draws)
        measured = output.kind.metrics(rows_by_name(scores, output.score_names)[inside], labelled)
        named = {"label": " AND ".join(output.label), "space": " AND ".join(output.space) or "impression"}
        outputs[output.name] = {"kind": output.kind.reported_as} | named | measured
    # Scores that are evaluated on another label than their own.
    extra = []
    every = np.ones(len(data.parts[part].item), dtype=bool)
    for evaluation in data.recipe.extra_evaluations:
        if evaluation.score not in scores:
            problem = f"'{evaluation.score}' is not an output; outputs: {', '.join(scores)}"
            raise RecipeError(f"extra_evaluations: {problem}", ("extra_evaluations",), evaluation.score)
        labelled = _labelled(data, part, (evaluation.label,), every, draws)
        measured = PROBABILITY.metrics(scores[evaluation.score][:, None], labelled)
        extra.append({"score": evaluation.score, "label": evaluation.label} | measured)
    grouped_by = "user" if data.parts[part].request is None else "request"
    return {"impressions": len(every), "grouped_by": grouped_by, "outputs": outputs, "extra": extra}


def _labelled(data: Data, part: str, columns: Sequence[str], inside: np.ndarray, draws: int) -> Labelled:
    """The impressions in `inside` bool `[n]` with the label of these columns."""
    items = np.asarray(data.parts[part].item)[inside]
    return Labelled(
        labels_of(data, part, columns)[inside],
        groups_of(data, part)[inside],
        data.item_numerics[items],
        sorted({*CUTOFFS, *cutoffs_of(data.recipe)}),
        _draws(data, part, inside, draws),
        _gains(data, part, inside),
    )


def _gains(data: Data, part: str, inside: np.ndarray) -> np.ndarray | None:
    """The sum of the gains of each impression's labels `[n]`; None if the recipe names no gains."""
    gains = data.recipe.training.gains
    if not gains:
        return None
    of_labels = [gain * labels_of(data, part, (label,))[inside] for label, gain in gains.items()]
    return np.asarray(np.sum(of_labels, axis=0))


def groups_of(data: Data, part: str) -> np.ndarray:
    """The list of each impression, int64 `[n]`: its request, or its user if the recipe names no request."""
    return np.asarray(lists_of(data.parts[part]))


def _draws(data: Data, part: str, space: np.ndarray, draws: int) -> Draws | None:
    if not draws:
        return None
    return Draws(np.asarray(data.parts[part].user)[space], groups_of(data, part)[space], draws)


def gate_utilisation(
    ranker: MultiTaskModel, data: Data, part: str, batches: int | None = None
) -> dict[str, list[float]]:
    """Mean gate value per expert by head over a part, or over its first `batches`; empty without gates."""
    was_training = ranker.training
    ranker.eval()
    totals: dict[str, torch.Tensor] = {}
    impressions = 0
    with torch.no_grad():
        for batch in on_device(islice(ordered_batches(data, part, EVALUATION_BATCH), batches), device_of(ranker)):
            size = len(batch["request_time"])
            impressions += size
            for head, gates in ranker.gate_means(batch).items():
                totals[head] = totals.get(head, torch.zeros_like(gates)) + gates * size
    ranker.train(was_training)
    return {head: [float(g) / impressions for g in gates] for head, gates in totals.items()}


def gate_health(ranker: MultiTaskModel, data: Data, part: str, batches: int | None = None) -> dict[str, Any]:
    """`{"entropy": {head: 0 to 1}, "similarity": [[cosine]]}` over a part or its first `batches`; empty without gates.

    An entropy near 0 means that a gate has polarised on one expert, a similarity near 1 that two experts compute the
    same.
    """
    was_training = ranker.training
    ranker.eval()
    entropies: dict[str, float] = {}
    cosines = torch.zeros((), device=device_of(ranker))
    impressions = 0
    with torch.no_grad():
        for batch in on_device(islice(ordered_batches(data, part, EVALUATION_BATCH), batches), device_of(ranker)):
            gated = ranker.gating(batch)
            if gated is None:
                break
            size = len(batch["request_time"])
            # Sum over impressions, because batches differ in size.
            impressions += size
            cosines = cosines + similarity(gated.experts) * size
            for head, gates in gated.gates.items():
                entropies[head] = entropies.get(head, 0.0) + float(entropy(gates)) * size
    ranker.train(was_training)
    if not impressions:
        return {}
    return {
        "entropy": {head: total / impressions for head, total in entropies.items()},
        "similarity": (cosines / impressions).tolist(),
    }


def most_alike(cosines: Sequence[Sequence[float]]) -> tuple[float, int, int]:
    """The largest cosine between two different experts, and their numbers, counted from 0; (0, 0, 0) for a single
    expert.
    """
    pairs = [(cosines[i][j], i, j) for i in range(len(cosines)) for j in range(i)]
    return max(pairs, default=(0.0, 0, 0))
