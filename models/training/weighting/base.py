"""The interface of a loss weighting, and three weightings: static, decayed, bounded uncertainty."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
Losses = Mapping[str, Tensor]


class Weighting(Protocol):
    """Combines task losses: `backward` sets the gradient of the parameters, `logged` holds values for curves."""

    def backward(self, losses: Losses, batch: Batch, epoch: int) -> None: ...

    def logged(self) -> dict[str, float]: ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


def weighted_total(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """Sum of the tasks' losses times their weights."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


class Decayed:
    """w_k^(t) = w_k0 * gamma_k^t with t the epoch from 0 (PLE, RecSys 2020, equation 10); gamma 1 keeps a weight."""

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
        """The weights of the epoch, or nothing if they never change."""
        return self.weights(self.epoch) if self.decay else {}

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]


class Uncertainty:
    """Homoscedastic uncertainty (Kendall et al., CVPR 2018) with s_k = log sigma_k^2 held within [-bound, bound].

    A probability's term is exp(-s) w L + s / 2, a value's exp(-s) / 2 w L + s / 2. At the optimum the weight of a
    probability is 1 / (2 L), 500 for a loss of 0.001: the bound keeps a rare task from drowning the others. s moves by
    plain gradient descent, since its curvature at the optimum is 1 / 2 for every task. It is put back to the bound
    after a step, where its gradient still leads inward; clamping inside the loss would freeze it there. s is no weight
    of the network and is not exported.
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
