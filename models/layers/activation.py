"""The activations of DIN's activation unit: PReLU and Dice."""

import torch
from torch import Tensor, nn

from models.layers.normalisation import RunningStatistics


class PRelu(nn.Module):
    """max(0, x) + alpha min(0, x) with one alpha per channel.

    It is written as two ops that ONNX Runtime vectorises; its own PRelu op is scalar.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((width,), 0.25))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[..., width]` -> `[..., width]`."""
        positive = torch.relu(x)
        return positive + self.alpha * (x - positive)

    def before(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """`self(x) @ weight + bias` for `[n, width]`, as (1 - alpha) W relu(x) + (alpha W x + b).

        A second product costs less than three passes over x.
        """
        of_all = torch.addmm(bias, x, self.alpha.unsqueeze(-1) * weight)
        return torch.addmm(of_all, torch.relu(x), (1 - self.alpha).unsqueeze(-1) * weight)

    def before_one(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """The fused product for a layer of one output -> `[1, n]`, as a row times a matrix.

        A matrix times a column would cost as much as sixteen columns.
        """
        x_TN = x.T
        of_all = torch.addmm(layer.bias, self.alpha * layer.weight, x_TN)
        return torch.addmm(of_all, (1 - self.alpha) * layer.weight, torch.relu(x_TN))


class Dice(RunningStatistics):
    """f(s) = p(s) s + (1 - p(s)) alpha s, p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)), eps = 1e-8, per channel.

    Batch statistics over real behaviours in training, running ones after. Source: DIN (arXiv 1706.06978), equation 5.
    """

    def __init__(self, width: int, momentum: float = 0.01, eps: float = 1e-8) -> None:
        super().__init__((width,), momentum)
        self.alpha = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[..., width]` -> the same; padding, where `mask` `[...]` is False, does not enter the statistics."""
        mean = self.mean
        variance = self.variance
        if self.training:
            mean, variance = self._batch_statistics(x, mask)
        p = torch.sigmoid((x - mean) / torch.sqrt(variance + self.eps))
        return x * (self.alpha + p * (1 - self.alpha))

    def _batch_statistics(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        weight = torch.ones_like(x[..., :1]) if mask is None else mask.to(x.dtype).unsqueeze(-1)
        axes = tuple(range(x.dim() - 1))
        count = weight.expand_as(x[..., :1]).sum()
        if count < 2:
            return self.mean, self.variance
        mean = (x * weight).sum(axes) / count
        variance = (weight * (x - mean) ** 2).sum(axes) / count
        self.move(mean, variance)
        return mean, variance
