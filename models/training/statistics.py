"""Computes the statistics of labels that some tasks learn from, on the training part, before the first step."""

import numpy as np

from models.data.cache import Data, labels_of
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
