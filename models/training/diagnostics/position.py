"""The curve that the position tower has learned: how much each position shifts the logit of its head."""

from typing import Any

import numpy as np

from models.data.cache import Data
from models.network.model import MultiTaskModel


def position_curve(model: MultiTaskModel, data: Data) -> dict[str, Any] | None:
    """`{"head", "column", "cross", "constant", "positions", "curve"}`, or None without a tower.

    `positions` are those of the training part; `constant` is part of the serving graph. `curve` has a line per cross
    value, with its share of the training impressions and the shift of the logit at each position.
    """
    tower = model.position
    section = data.recipe.position
    part = data.parts["train"]
    if tower is None or section is None or part.position is None or part.position_cross is None:
        return None
    # A row of weights per position and a column per cross value; position 0 is a missing one.
    bias = tower.bias.weight.detach().numpy().reshape(-1, tower.cross_values + 1)
    positions = np.unique(part.position)
    positions = positions[positions > 0]
    crossed = np.bincount(part.position_cross, minlength=tower.cross_values + 1)
    curve = [
        {"share": float(crossed[value] / crossed.sum()), "shift": bias[positions, value].astype(float).tolist()}
        for value in np.flatnonzero(crossed)
    ]
    return {
        "head": section.head,
        "column": section.column,
        "cross": section.cross,
        "constant": float(tower.missing_constant().detach()),
        "positions": positions.tolist(),
        "curve": curve,
    }
