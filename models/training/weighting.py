"""Owns how the tasks' losses share one gradient: static or decayed weights, bounded uncertainty, GradNorm, PCGrad.

Every weighting starts from the recipe's `loss_weights` (1 where it gives none). Which weights a run keeps is never decided by a weighted
loss, only by validation metrics.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from models.network.model import MultiTaskModel
from models.recipe.training import (
    DecayedWeighting,
    GradnormWeighting,
    PcgradWeighting,
    StaticWeighting,
    TrainingSection,
    UncertaintyWeighting,
)
from models.training.shared import last_shared_layer, shared_masks

Batch = Mapping[str, Tensor]
Losses = Mapping[str, Tensor]


class Weighting(Protocol):
    """`backward` puts the combined gradient on the ranker's parameters; `logged` is what the curves show; the state resumes a run."""

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None: ...

    def logged(self) -> dict[str, float]: ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


def build_weighting(ranker: MultiTaskModel, section: TrainingSection) -> Weighting:
    """The weighting of a recipe for a ranker's trained outputs."""
    base = {o.name: section.loss_weights.get(o.name, 1.0) for o in ranker.outputs if o.trained}
    match section.weighting:
        case StaticWeighting():
            return Decayed(base, {})
        case DecayedWeighting(decay=decay):
            return Decayed(base, decay)
        case UncertaintyWeighting() as chosen:
            scale = {o.name: o.kind.loss_scale for o in ranker.outputs if o.trained}
            return Uncertainty(base, scale, chosen.bound, chosen.learning_rate)
        case GradnormWeighting() as chosen:
            return GradNorm(ranker, base, chosen.alpha, chosen.learning_rate)
        case PcgradWeighting():
            return PcGrad(ranker, base)


def weighted_total(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """Sum of the tasks' losses times their weights."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


class Decayed:
    """w_k^(t) = w_k0 * gamma_k^t with t the epoch from 0 (PLE, RecSys 2020, equation 10); gamma 1 keeps a weight as it is."""

    def __init__(self, base: Mapping[str, float], decay: Mapping[str, float]) -> None:
        self.base = base
        self.decay = decay
        self.epoch = 0

    def weights(self, epoch: int) -> dict[str, float]:
        return {name: weight * self.decay.get(name, 1.0) ** epoch for name, weight in self.base.items()}

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None:
        self.epoch = epoch
        weighted_total(losses, self.weights(epoch)).backward()

    def logged(self) -> dict[str, float]:
        """The weights of the epoch, or nothing where they never change."""
        return self.weights(self.epoch) if self.decay else {}

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]


class Uncertainty:
    """Homoscedastic uncertainty (Kendall et al., CVPR 2018) with s_k = log sigma_k^2 held within [-bound, bound].

    A probability's term is exp(-s) w L + s / 2, a value's exp(-s) / 2 w L + s / 2. At the optimum a probability's weight is 1 / (2 L), 500
    for a loss of 0.001: the bound is what keeps a rare task from drowning the others. s moves by plain gradient descent, since its curvature
    at the optimum is 1 / 2 for every task, and is put back to the bound after a step, where its gradient still leads inward (clamping inside
    the loss would freeze it there). s is no weight of the network and is not exported.
    """

    def __init__(self, base: Mapping[str, float], scale: Mapping[str, float], bound: float, rate: float) -> None:
        self.base = base
        self.bound = bound
        self.rate = rate
        self.scale = dict(scale)
        self.s = dict.fromkeys(base, 0.0)

    def logged(self) -> dict[str, float]:
        return {name: self.scale[name] * math.exp(-self.s[name]) * self.base[name] for name in self.base}

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None:
        weights = self.logged()
        weighted_total(losses, weights).backward()
        for name, loss in losses.items():
            moved = self.s[name] - self.rate * (0.5 - weights[name] * float(loss.detach()))
            self.s[name] = min(self.bound, max(-self.bound, moved))

    def state(self) -> dict[str, Any]:
        return {"s": dict(self.s)}

    def load(self, state: dict[str, Any]) -> None:
        self.s = dict(state["s"])


class GradNorm:
    """GradNorm (Chen et al., ICML 2018): weights that bring the tasks' gradients on the last shared layer to comparable sizes.

    G_k = |grad_W w_k L_k|, its target mean(G) * r_k^alpha, r_k = (L_k / L_k(0)) / mean over the tasks; w_k descends sum |G_k - target| with
    the target held constant (equation 2), then the weights are scaled back to their sum. W is found on the first batch.
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
                float(((g * mask) ** 2).sum())
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
    """The weights after one descent on sum_k |w_k norm_k - target_k|, before they are scaled; none falls below `smallest`.

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


class PcGrad:
    """PCGrad (Yu et al., NeurIPS 2020): where two tasks' gradients conflict, each loses its component along the other.

    Over the parameters that all heads share, taken as one vector; everything else gets the plain sum.
    """

    def __init__(self, ranker: MultiTaskModel, base: Mapping[str, float]) -> None:
        self.ranker = ranker
        self.base = base
        self.masks: dict[str, Tensor] = {}
        self.conflicts = 0
        self.pairs = 0

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None:
        if not self.masks:
            self.masks = shared_masks(self.ranker, batch)
        named = {name: p for name, p in self.ranker.named_parameters() if p.requires_grad}
        gradients = [self._gradients(self.base[task] * loss, named) for task, loss in losses.items()]
        shared = [torch.cat([(g[name] * mask).flatten() for name, mask in self.masks.items()]) for g in gradients]
        projected, conflicts = without_conflicts(shared, [torch.randperm(len(shared)).tolist() for _ in shared])
        self.conflicts, self.pairs = self.conflicts + conflicts, self.pairs + len(shared) * (len(shared) - 1)
        change = torch.stack(projected).sum(0) - torch.stack(shared).sum(0)
        pieces = change.split([named[name].numel() for name in self.masks])
        for name, parameter in named.items():
            parameter.grad = torch.stack([g[name] for g in gradients]).sum(0)
        for name, piece in zip(self.masks, pieces, strict=True):
            grad = named[name].grad
            assert grad is not None
            grad += piece.reshape(grad.shape)

    @staticmethod
    def _gradients(loss: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        return {
            name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)
        }

    def logged(self) -> dict[str, float]:
        """Of all ordered pairs of tasks since the start, the share whose gradients were in conflict when they met."""
        return {"conflicts": self.conflicts / max(1, self.pairs)}

    def state(self) -> dict[str, Any]:
        return {"masks": dict(self.masks), "conflicts": self.conflicts, "pairs": self.pairs}

    def load(self, state: dict[str, Any]) -> None:
        self.masks = dict(state["masks"])
        self.conflicts = state["conflicts"]
        self.pairs = state["pairs"]


def without_conflicts(gradients: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> tuple[list[Tensor], int]:
    """Each gradient `[n]` after the others, met in its order, took their conflicts away (algorithm 1); and how many there were.

    g_i <- g_i - (g_i . g_j) / |g_j|^2 g_j wherever g_i . g_j < 0, with g_j as it came and g_i as it is by then.
    """
    squares = [float(g @ g) for g in gradients]
    out = []
    conflicts = 0
    for i, order in enumerate(orders):
        left = gradients[i]
        for j in order:
            product = float(left @ gradients[j]) if j != i else 0.0
            if product < 0 and squares[j] > 0:
                left = left - product / squares[j] * gradients[j]
                conflicts += 1
        out.append(left)
    return out, conflicts
