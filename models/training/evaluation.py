"""Owns scoring a part of the data and the metrics of every output, and the one number that selects the best weights."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from models import metrics
from models.data.batches import ordered_batches
from models.data.cache import Data
from models.layers.gates import entropy, similarity
from models.network.model import MultiTaskModel
from models.recipe.recipe import RecipeError
from models.structures.class_preference import ClassPreference

EVALUATION_BATCH = 4096


def scores_of(ranker: MultiTaskModel, data: Data, part: str) -> dict[str, np.ndarray]:
    """Every output's score `[n]` in the part's order: log probabilities, or plain values."""
    was_training = ranker.training
    ranker.eval()
    collected: dict[str, list[np.ndarray]] = {output.name: [] for output in ranker.outputs}
    with torch.no_grad():
        for batch in ordered_batches(data, part, EVALUATION_BATCH):
            for name, score in ranker(batch).items():
                collected[name].append(score.numpy())
    ranker.train(was_training)
    return {name: np.concatenate(pieces) for name, pieces in collected.items()}


def evaluate(ranker: MultiTaskModel, data: Data, part: str) -> dict[str, Any]:
    """`{"impressions": n, "outputs": {name: metrics}, "extra": [...]}` of one part, each output on its own label and space."""
    scores = scores_of(ranker, data, part)
    users = np.asarray(data.parts[part].user)
    items = np.asarray(data.parts[part].item)
    preferences = {s.outputs[0].name: s for s in ranker.structures if isinstance(s, ClassPreference)}
    outputs = {}
    for output in ranker.outputs:
        space = labels_of(data, part, output.space) > 0
        label = labels_of(data, part, output.label)[space]
        score = scores[output.name][space]
        if output.name in preferences:
            measured = metrics.of_choice(score, preferences[output.name].class_of(data.item_numerics[items[space]]))
        elif output.kind == "probability":
            measured = metrics.of_probability(label, score, users[space])
        else:
            measured = metrics.of_value(label, score)
        outputs[output.name] = {
            "label": " AND ".join(output.label),
            "space": " AND ".join(output.space) or "impression",
        } | measured
    extra = []
    for evaluation in data.recipe.extra_evaluations:
        if evaluation.score not in scores:
            raise RecipeError(f"extra_evaluations: '{evaluation.score}' is not an output; outputs: {', '.join(scores)}")
        label = labels_of(data, part, (evaluation.label,))
        score = scores[evaluation.score]
        extra.append(
            {"score": evaluation.score, "label": evaluation.label} | metrics.of_probability(label, score, users)
        )
    return {"impressions": len(users), "outputs": outputs, "extra": extra}


def labels_of(data: Data, part: str, columns: Sequence[str]) -> np.ndarray:
    """The AND (product) of label columns, float32 `[n]`; ones for no column."""
    labels = data.parts[part].labels
    names = data.recipe.label_columns
    product = np.ones(len(labels), dtype=np.float32)
    for column in columns:
        product *= labels[:, names.index(column)]
    return product


def selected_outputs(ranker: MultiTaskModel, data: Data) -> list[str]:
    """The outputs that select: the recipe's, or else every trained probability, or else every trained value."""
    if data.recipe.training.select_on:
        return list(data.recipe.training.select_on)
    trained = [o for o in ranker.outputs if o.trained]
    return [o.name for o in trained if o.kind == "probability"] or [o.name for o in trained]


def selection_score(outputs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> float:
    """Mean AUC over `names`, higher is better. A value task counts by minus its RMSE, a class preference by minus its cross entropy; where a
    label has one class only and there is no AUC, the log loss decides instead, for all of them.
    """
    probabilities = [outputs[n] for n in names if "auc" in outputs[n]]
    values = [-float(outputs[n].get("rmse", outputs[n].get("log_loss", 0.0))) for n in names if "auc" not in outputs[n]]
    if all(o["auc"] is not None for o in probabilities):
        return float(np.mean([o["auc"] for o in probabilities] + values))
    return float(np.mean([-o["log_loss"] for o in probabilities] + values))


def gate_utilisation(
    ranker: MultiTaskModel, data: Data, part: str, batches: int | None = None
) -> dict[str, list[float]]:
    """Mean gate value per expert by head over a part, or over its first few `batches`; empty without gates."""
    was_training = ranker.training
    ranker.eval()
    totals: dict[str, torch.Tensor] = {}
    impressions = 0
    with torch.no_grad():
        for batch in islice(ordered_batches(data, part, EVALUATION_BATCH), batches):
            size = len(batch["request_time"])
            impressions += size
            for head, gates in ranker.gate_means(batch).items():
                totals[head] = totals.get(head, torch.zeros_like(gates)) + gates * size
    ranker.train(was_training)
    return {head: [float(g) / impressions for g in gates] for head, gates in totals.items()}


def gate_health(ranker: MultiTaskModel, data: Data, part: str, batches: int | None = None) -> dict[str, Any]:
    """`{"entropy": {head: 0 to 1}, "similarity": [[cosine]]}` over a part, or over its first few `batches`; empty without gates.

    Entropy near 0: a gate has polarised on one expert; similarity near 1: two experts compute the same.
    """
    was_training = ranker.training
    ranker.eval()
    entropies: dict[str, float] = {}
    cosines = torch.zeros(())
    impressions = 0
    with torch.no_grad():
        for batch in islice(ordered_batches(data, part, EVALUATION_BATCH), batches):
            found = ranker.gating(batch)
            if found is None:
                break
            size = len(batch["request_time"])
            impressions += size
            cosines = cosines + similarity(found.experts) * size
            for head, gates in found.gates.items():
                entropies[head] = entropies.get(head, 0.0) + float(entropy(gates)) * size
    ranker.train(was_training)
    if not impressions:
        return {}
    return {
        "entropy": {head: total / impressions for head, total in entropies.items()},
        "similarity": (cosines / impressions).tolist(),
    }


def most_alike(cosines: Sequence[Sequence[float]]) -> tuple[float, int, int]:
    """The largest cosine between two different experts, and which, counted from 0; (0, 0, 0) for a single expert."""
    pairs = [(cosines[i][j], i, j) for i in range(len(cosines)) for j in range(i)]
    return max(pairs, default=(0.0, 0, 0))
