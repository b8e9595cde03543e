"""Running statistics of a layer's values, batch normalisation, and linear layers with it.

Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift, ICML
2015 (arXiv 1502.03167). The statistics are those of the training impressions, and belong to the trained function. Where
negatives are sampled, those of serving differ, and must not take their place: the simulator `batch_norm` shows it.
"""

import math

import torch
from torch import Tensor, nn

# Shape legend: G groups, B impressions or candidates, L behaviours, I width of the input, X width of the output.


class RunningStatistics(nn.Module):
    """A layer that reads mean and variance per channel: of the batch in training, running ones afterwards."""

    mean: Tensor
    variance: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))

    @torch.no_grad()
    def move(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        self.mean.lerp_(mean, self.momentum)
        self.variance.lerp_(variance, self.momentum)


class BatchNorm(RunningStatistics):
    """gamma (y - E[y]) / sqrt(Var[y] + eps) + beta per channel, between a linear layer and its activation.

    y is `[B, X]`, `[B, L, X]`, or `[G, B, X]` of `groups`. After training it is folded into the layer: `folded`. A
    batch of one row, which has no variance, is normalised by the running statistics.
    """

    def __init__(self, width: int, groups: int | None = None, momentum: float = 0.1, eps: float = 1e-5) -> None:
        shape = (1, width) if groups is None else (groups, 1, width)
        super().__init__(shape, momentum)
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, y: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The same shape; in training, places where the mask is False do not enter the statistics."""
        mean = self.mean
        variance = self.variance
        if self.training:
            real = y if mask_BL is None else y[mask_BL]
            if real.shape[-2] > 1:
                mean = real.mean(-2, keepdim=True)
                variance = real.var(-2, correction=0, keepdim=True)
                self.move(mean.detach(), variance.detach())
        return self.gamma * (y - mean) / torch.sqrt(variance + self.eps) + self.beta

    def affine(self) -> tuple[Tensor, Tensor]:
        """The factor and the addend of serving, in the shape of the statistics."""
        scale = self.gamma / torch.sqrt(self.variance + self.eps)
        return scale, self.beta - self.mean * scale

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The weights `[..., I, X]` and the bias of the layer below, with the normalisation of serving in them."""
        scale, shift = self.affine()
        return weight * scale, bias * scale + shift


class NormalisedLinear(RunningStatistics):
    """`groups` linear layers without bias, then per channel gamma (y - E[y]) / sqrt(Var[y] + eps) + beta.

    After training the statistics are constants, and so a part of the weights. A batch of one row, which has no
    variance, is normalised by the running statistics.
    """

    def __init__(self, groups: int, in_width: int, out_width: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__((groups, 1, out_width), momentum)
        bound = 1 / math.sqrt(in_width)
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(groups, in_width, out_width).uniform_(-bound, bound))
        self.gamma = nn.Parameter(torch.ones(groups, 1, out_width))
        self.beta = nn.Parameter(torch.zeros(groups, 1, out_width))

    def forward(self, x_GBI: Tensor) -> Tensor:
        """`[G, B, I]` -> `[G, B, X]`."""
        if not self.training or x_GBI.shape[1] < 2:
            scale_G1X = self.gamma / torch.sqrt(self.variance + self.eps)
            return x_GBI @ (self.weight * scale_G1X) + (self.beta - self.mean * scale_G1X)
        y_GBX = x_GBI @ self.weight
        mean_G1X = y_GBX.mean(1, keepdim=True)
        variance_G1X = y_GBX.var(1, correction=0, keepdim=True)
        self.move(mean_G1X, variance_G1X)
        return self.gamma * (y_GBX - mean_G1X) / torch.sqrt(variance_G1X + self.eps) + self.beta
