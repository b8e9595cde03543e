"""Computes, on the training part and before the first step, the statistics of labels and the means of weights."""

import numpy as np
import torch

from models.data.cache import Data, labels_of
from models.errors import RecipeError
from models.kinds import PROBABILITY
from models.network.losses import counted, label_of
from models.network.model import MultiTaskModel
from models.network.weights import Weights
from models.structures.base import Output
from models.structures.statistics import WithStatistics


def fit_statistics(model: MultiTaskModel, data: Data) -> None:
    """Set the statistics of every task that has some."""
    part = data.parts["train"]
    for structure in model.structures:
        if isinstance(structure, WithStatistics):
            label = labels_of(data, "train", structure.outputs[0].label)
            items = np.asarray(part.item)
            numbers = {name: data.item_numerics[items, column] for name, column in structure.numbers.items()}
            structure.fit(label, numbers)


def fit_weights(model: MultiTaskModel, data: Data) -> None:
    """Set the mean weight of every trained output over the training impressions that its loss is a mean over.

    Raises RecipeError if all those weights are 0, or those of all impressions with, or all without, a positive label.
    """
    weights = model.objective.weights
    part = data.parts["train"]
    chosen = data.trained_rows
    if part.weights is None and chosen is None:
        return
    # The columns of all impressions that are trained on, in the form of a batch.
    rows = slice(None) if chosen is None else chosen
    batch = {
        f"label/{name}": torch.from_numpy(labels_of(data, "train", [name])[rows]) for name in data.recipe.label_columns
    }
    for i, name in enumerate(data.recipe.data.weight_columns):
        assert part.weights is not None
        batch[f"weight/{name}"] = torch.from_numpy(np.array(part.weights[:, i])[rows])
    for output in model.objective.outputs:
        weight = weights.plain(batch, output.name)
        inside = counted(batch, output) > 0
        if weight is None or not inside.any():
            continue
        mean = float(weight[inside].double().mean())
        if not mean:
            raise _no_weight(weights, output, "", f"'{output.name}' learns nothing")
        weights.means[output.name] = mean
        if output.kind != PROBABILITY:
            continue
        # A column such as a watched time may be 0 wherever the label is 0. The others teach that it is always 1.
        label = label_of(batch, output.label)[inside]
        for value in label.unique().tolist():
            if not weight[inside][label == value].any():
                condition = f"{' AND '.join(output.label)} is {value:g}"
                raise _no_weight(weights, output, condition, f"'{output.name}' would learn {1 - value:g} for all")


def _no_weight(weights: Weights, output: Output, condition: str, consequence: str) -> RecipeError:
    """The error of an output whose impressions have no weight, all of its space or those with a label."""
    column = weights.column_of(output.name)
    key = "task_weights" if output.name in weights.columns else "weight"
    space = f"{' AND '.join(output.space)} is 1" if output.space else ""
    conditions = " and ".join(filter(None, (space, condition)))
    where = f" where {conditions}" if conditions else ""
    problem = f"'{column}' is 0 in every impression of the training part{where}, so {consequence}"
    return RecipeError(f"data.{key}: {problem}", ("data", key), column)
