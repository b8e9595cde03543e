"""Linear layers over parts and over groups, so that the user's part is multiplied once per request.

The concatenation [u; v] of a user part u and a candidate part v is never built: W [u; v] = W_u u + W_v v, and the two
products are added with broadcasting. In training both parts have B rows; at serving the user part has one row and the
candidate part C rows.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PartLinear(nn.Module):
    """y = sum_p x_p W_p + b over parts x_p: a linear layer on their concatenation, without concatenating."""

    bias: Tensor

    def __init__(self, in_widths: Sequence[int], out_width: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(max(1, sum(in_widths)))
        self.weights = nn.ParameterList([torch.empty(w, out_width).uniform_(-bound, bound) for w in in_widths])
        if bias:
            self.bias = nn.Parameter(torch.empty(out_width).uniform_(-bound, bound))
        else:
            self.register_buffer("bias", torch.zeros(out_width), persistent=False)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[n_p, in_p]`, each n_p either 1 or n -> `[n, out]`. One-row parts are summed first."""
        pairs = list(zip(parts, self.weights, strict=True))
        of_user = [pair for pair in pairs if pair[0].shape[0] == 1]  # first, so that they add up before they broadcast
        total: Tensor = self.bias
        for group in (of_user, [pair for pair in pairs if pair[0].shape[0] != 1]):
            if self.training:
                for part, weight in group:
                    total = total + part @ weight
            elif group:  # at serving the weights are constants, so that side by side they make one product
                total = torch.cat([part for part, _ in group], -1) @ torch.cat([weight for _, weight in group]) + total
        return total


class GroupedLinear(nn.Module):
    """`groups` independent linear layers in one batched product: y_g = x_g W_g + b_g."""

    def __init__(self, groups: int, in_width: int, out_width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_width)
        self.weight = nn.Parameter(torch.empty(groups, in_width, out_width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_width).uniform_(-bound, bound))

    def forward(self, x_GBI: Tensor) -> Tensor:
        """`[groups, n, in]` -> `[groups, n, out]`."""
        return x_GBI @ self.weight + self.bias


class GroupedMlp(nn.Module):
    """`groups` independent multi-layer perceptrons with ReLU and dropout between layers.

    The last layer is linear if `last_linear`.
    """

    def __init__(self, groups: int, widths: Sequence[int], dropout: float, last_linear: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GroupedLinear(groups, a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.dropout = nn.Dropout(dropout)
        self.last_linear = last_linear

    def forward(self, x_GBI: Tensor) -> Tensor:
        """`[groups, n, widths[0]]` -> `[groups, n, widths[-1]]`."""
        for i, layer in enumerate(self.layers):
            x_GBI = layer(x_GBI)
            if not (self.last_linear and i == len(self.layers) - 1):
                x_GBI = self.dropout(torch.relu(x_GBI))
        return x_GBI
