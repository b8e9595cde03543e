"""Computes, on the training part and before the first step, the statistics of labels and the means of weights."""

import numpy as np
import torch

from models.data.cache import Data, labels_of
from models.data.sampling import trained_rows
from models.errors import RecipeError
from models.network.losses import counted
from models.network.model import MultiTaskModel
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

    Raises RecipeError if all those weights are 0.
    """
    weights = model.objective.weights
    part = data.parts["train"]
    chosen = trained_rows(data)
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
            column = weights.column_of(output.name)
            where = f" where {' AND '.join(output.space)} is 1" if output.space else ""
            problem = f"'{column}' is 0 in every impression of the training part{where}"
            raise RecipeError(f"data.weight: {problem}, so '{output.name}' learns nothing", ("data",), column)
        weights.means[output.name] = mean
