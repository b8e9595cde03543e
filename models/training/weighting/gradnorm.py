"""GradNorm: sets loss weights so that the tasks' gradients on the last shared layer have comparable sizes
(ICML 2018).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.network.model import MultiTaskModel
from models.training.updates.sparse_gradients import values_of
from models.training.weighting.base import Batch, Losses, weighted_total
from models.training.weighting.shared import last_shared_layer, shared_masks


class GradNorm:
    """GradNorm (Chen et al., ICML 2018): brings the gradients on the last shared layer to comparable sizes.

    G_k = |grad_W w_k L_k|, its target mean(G) * r_k^alpha, r_k = (L_k / L_k(0)) / mean over the tasks. w_k descends sum
    |G_k - target| with the target held constant (equation 2), then the weights are scaled back to their sum. The first
    batch determines W.
    """

    SMALLEST = 1e-3

    def __init__(self, ranker: MultiTaskModel, base: Mapping[str, float], alpha: float, rate: float) -> None:
        self.ranker = ranker
        self.alpha = alpha
        self.rate = rate
        self.total = sum(base.values())
        self.weights = dict(base)
        self.first_losses: dict[str, float] = {}
        self.layer: dict[str, Tensor] = {}

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None:
        if not self.layer:
            self.layer = last_shared_layer(shared_masks(self.ranker, batch))
        norms = self._norms(losses)
        weighted_total(losses, self.weights).backward()
        plain = {name: float(loss.detach()) for name, loss in losses.items()}
        for name, loss in plain.items():
            if loss > 0:  # a task without an impression of its space in the first batches starts later
                self.first_losses.setdefault(name, loss)
        moving = [name for name in norms if norms[name] > 0 and math.isfinite(norms[name])]
        if len(moving) > 1:
            ratios = {name: plain[name] / self.first_losses[name] for name in moving}
            self.weights |= gradnorm_step(
                {n: self.weights[n] for n in moving}, norms, ratios, self.alpha, self.rate, self.SMALLEST
            )
            scale = self.total / sum(self.weights.values())
            self.weights = {name: weight * scale for name, weight in self.weights.items()}

    def _norms(self, losses: Losses) -> dict[str, float]:
        """|grad_W L_k| over the shared part of W, by task."""
        named = dict(self.ranker.named_parameters())
        layer = [named[name] for name in self.layer]
        norms = {}
        for task, loss in losses.items():
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss, layer, retain_graph=True, allow_unused=True
            )
            squares = [
                float(((values_of(g) * mask) ** 2).sum())
                for g, mask in zip(gradients, self.layer.values(), strict=True)
                if g is not None
            ]
            norms[task] = math.sqrt(sum(squares))
        return norms

    def logged(self) -> dict[str, float]:
        return dict(self.weights)

    def state(self) -> dict[str, Any]:
        return {"weights": dict(self.weights), "first_losses": dict(self.first_losses), "layer": dict(self.layer)}

    def load(self, state: dict[str, Any]) -> None:
        self.weights = dict(state["weights"])
        self.first_losses = dict(state["first_losses"])
        self.layer = dict(state["layer"])


def gradnorm_step(
    weights: Mapping[str, float],
    norms: Mapping[str, float],
    ratios: Mapping[str, float],
    alpha: float,
    rate: float,
    smallest: float,
) -> dict[str, float]:
    """The weights after one descent on sum_k |w_k norm_k - target_k|, before scaling; none falls below `smallest`.

    `norms`: |grad_W L_k| without the weight; `ratios`: L_k / L_k(0).
    """
    sizes = {name: weight * norms[name] for name, weight in weights.items()}
    mean_size = sum(sizes.values()) / len(sizes)
    mean_ratio = sum(ratios.values()) / len(ratios)
    moved = {}
    for name, weight in weights.items():
        target = mean_size * (ratios[name] / mean_ratio) ** alpha
        direction = (sizes[name] > target) - (sizes[name] < target)
        moved[name] = max(smallest, weight - rate * direction * norms[name])
    return moved
