"""The curves that the position tower has learned: how much each position shifts the logits of its heads."""

from typing import Any

import numpy as np

from models.data.cache import Data
from models.network.model import MultiTaskModel


def position_curve(model: MultiTaskModel, data: Data) -> dict[str, Any] | None:
    """`{"head", "column", "cross", "constant", "positions", "curve"}`, or None without a tower.

    `positions` are those of the training part; `constant` is part of the serving graph. `curve` has a line per cross
    value, with its share of the training impressions and the shift of the logit at each position. The figures are those
    of the first head; `others` has one such entry per further head.
    """
    tower = model.position
    section = data.recipe.position
    part = data.parts["train"]
    if tower is None or section is None or part.position is None or part.position_cross is None:
        return None
    # Biases by head, position and cross value; position 0 is a missing one.
    bias = tower.bias.weight.detach().numpy().T.reshape(len(tower.heads), -1, tower.cross_values + 1)
    constants = tower.missing_constants()
    positions = np.unique(part.position)
    positions = positions[positions > 0]
    crossed = np.bincount(part.position_cross, minlength=tower.cross_values + 1)
    curves: list[dict[str, Any]] = []
    for head, own in zip(tower.heads, bias, strict=True):
        curve = [
            {"share": float(crossed[value] / crossed.sum()), "shift": own[positions, value].astype(float).tolist()}
            for value in np.flatnonzero(crossed)
        ]
        curves.append(
            {
                "head": head,
                "column": section.column,
                "cross": " x ".join(section.crossed) or None,
                "constant": float(constants[head].detach()),
                "positions": positions.tolist(),
                "curve": curve,
            }
        )
    first, *others = curves
    return first | {"others": others} if others else first
