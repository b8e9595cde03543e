"""Running statistics of a layer's values, and linear layers with batch normalisation.

Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift, ICML
2015 (arXiv 1502.03167). The statistics are those of training impressions: where negatives are sampled, those of serving
differ.
"""

import math

import torch
from torch import Tensor, nn

# Shape legend: G groups, B impressions or candidates, I width of the input, X width of the output.


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
