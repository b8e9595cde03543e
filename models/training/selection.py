"""Computes the number that selects the best weights: the mean of `training.select_on` on the validation part."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.data.cache import Data, labels_of, lists_of
from models.metrics.ranking import list_metrics
from models.network.model import MultiTaskModel
from models.recipe import Recipe, RecipeError
from models.recipe.sections.selection import Selection, selection_of
from models.structures.base import Output

SECTION = ("training", "select_on")
ORDER = "order"  # auc, gauc, ndcg@k, mrr: between 0 and 1, larger is better


def selected_outputs(ranker: MultiTaskModel, data: Data) -> list[str]:
    """Return the entries that select: those of the recipe, else every trained probability, else every trained value.

    Without entries in the recipe, a probability counts by its GAUC, or by its AUC if no list of the validation part has
    both labels.

    Raises RecipeError if the recipe's entries are measures of different kinds, whose mean would be meaningless.
    """
    kinds = _kinds(ranker)
    chosen = list(data.recipe.training.select_on)
    # Without entries, probabilities count before values.
    if not chosen:
        trained = [o for o in ranker.outputs if o.trained]
        ordered = [o for o in trained if kinds[o.name] == ORDER]
        return [_by_list(o, data) for o in ordered] or [o.name for o in trained]
    # Each entry must fit its output, and all of them must have one kind of measure.
    for entry in map(selection_of, chosen):
        if entry.metric and kinds[entry.output] != ORDER:
            raise RecipeError(
                f"training.select_on: '{entry.output}' has no {entry.metric}; "
                f"it is judged by its {kinds[entry.output]}",
                SECTION,
                str(entry),
            )
    by_kind = {kinds[selection_of(entry).output]: entry for entry in chosen}
    if len(by_kind) > 1:
        named = ", ".join(f"'{entry}' by its {kind}" for kind, entry in by_kind.items())
        raise RecipeError(
            f"training.select_on: {named}; measures of different kinds have no common mean; name outputs of one kind",
            SECTION,
        )
    return chosen


def _kinds(ranker: MultiTaskModel) -> dict[str, str]:
    """The measure of each output."""
    return {output.name: output.kind.judged_by for output in ranker.outputs}


def _by_list(output: Output, data: Data) -> str:
    """The entry for a probability that the recipe does not name."""
    return f"gauc({output.name})" if has_order(output, data, "validation") else output.name


def has_order(output: Output, data: Data, part: str) -> bool:
    """Return whether a list of the part has impressions of the output's space both with and without its label."""
    inside = labels_of(data, part, output.space) > 0
    label = labels_of(data, part, output.label)[inside]
    lists = np.asarray(lists_of(data.parts[part]))[inside]
    return len(list_metrics(label, np.zeros(len(label)), lists, ()).group) > 0


def refuse_lists_without_order(ranker: MultiTaskModel, data: Data) -> None:
    """Raise RecipeError if an output has a list loss and no list of the training part has an order."""
    names = data.recipe.training.list_losses
    lists = "user" if data.parts["train"].request is None else "request"
    for output in ranker.outputs:
        if output.name in names and not has_order(output, data, "train"):
            problem = f"no {lists} of the training part holds impressions with and without the label"
            section = ("training", "list_losses")
            raise RecipeError(f"training.list_losses: '{output.name}': {problem}", section, output.name)


def cutoffs_of(recipe: Recipe) -> set[int]:
    """Return every k of metrics such as nDCG@k that the recipe selects on."""
    return {k for entry in recipe.training.select_on if (k := selection_of(entry).cutoff)}


def selection_score(outputs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> float:
    """The mean over the entries `names`, higher is better; NaN, which never is the best, if a figure is not finite.

    A probability counts by its AUC unless the entry names another metric, a value by minus its RMSE, a class preference
    by minus its cross entropy. If a label has only one class, so that no ranking can be measured, minus the log loss
    replaces every ranking metric. An output without an impression of its space is left out.
    """
    measured = [(e, outputs[e.output]) for e in map(selection_of, names) if outputs[e.output].get("impressions") != 0]
    orders = [(e, m) for e, m in measured if "auc" in m]
    figures = [_order(e, m) for e, m in orders]
    if any(figure is None for figure in figures):
        figures = [_minus(m["log_loss"]) for _, m in orders]
    figures += [_minus(m.get("rmse", m.get("log_loss"))) for _, m in measured if "auc" not in m]
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known and len(known) == len(figures) else math.nan


def finite(number: float) -> float | None:
    """The number, or None if it is not finite."""
    return number if math.isfinite(number) else None


def _order(entry: Selection, measured: Mapping[str, Any]) -> float | None:
    value: Any = measured[entry.metric or "auc"]
    return value["value"] if isinstance(value, Mapping) else value


def _minus(figure: float | None) -> float | None:
    return None if figure is None else -float(figure)
