"""Linear layers over parts and over groups, so that the user's part is multiplied once per request.

The concatenation [u; v] of a user part u and a candidate part v is never built: W [u; v] = W_u u + W_v v, and the two
products are added with broadcasting. In training both parts have B rows; at serving the user part has one row and the
candidate part C rows.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.normalisation import BatchNorm


class PartLinear(nn.Module):
    """y = sum_p x_p W_p + b over parts x_p: a linear layer on their concatenation, without concatenating.

    The first `normed` numbers of y are normalised over the batch.
    """

    bias: Tensor

    def __init__(self, in_widths: Sequence[int], out_width: int, bias: bool = True, normed: int = 0) -> None:
        super().__init__()
        self.norm = BatchNorm(normed) if normed else None
        bound = 1 / math.sqrt(max(1, sum(in_widths)))
        self.weights = nn.ParameterList([torch.empty(w, out_width).uniform_(-bound, bound) for w in in_widths])
        if bias:
            self.bias = nn.Parameter(torch.empty(out_width).uniform_(-bound, bound))
        else:
            self.register_buffer("bias", torch.zeros(out_width), persistent=False)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts `[n_p, in_p]`, each n_p either 1 or n -> `[n, out]`. One-row parts are summed first."""
        weights, total = self._weights_and_bias()
        pairs = list(zip(parts, weights, strict=True))
        of_user = [pair for pair in pairs if pair[0].shape[0] == 1]  # first, so that they add up before they broadcast
        for group in (of_user, [pair for pair in pairs if pair[0].shape[0] != 1]):
            if self.training:
                for part, weight in group:
                    total = total + part @ weight
            elif group:  # at serving the weights are constants, so that side by side they make one product
                total = torch.cat([part for part, _ in group], -1) @ torch.cat([weight for _, weight in group]) + total
        if self.norm is None or not self.norm.training:
            return total
        width = self.norm.mean.shape[-1]
        return torch.cat([self.norm(total[..., :width]), total[..., width:]], -1)

    def _weights_and_bias(self) -> tuple[Sequence[Tensor], Tensor]:
        """The weights of each part and the bias; after training with the normalisation folded into them."""
        if self.norm is None or self.norm.training:
            return list(self.weights), self.bias
        scale_1X, shift_1X = self.norm.affine()
        other_width = self.bias.shape[0] - scale_1X.shape[-1]
        scale = nn.functional.pad(scale_1X[0], (0, other_width), value=1.0)
        shift = nn.functional.pad(shift_1X[0], (0, other_width))
        return [weight * scale for weight in self.weights], self.bias * scale + shift


class GroupedLinear(nn.Module):
    """`groups` independent linear layers in one batched product: y_g = x_g W_g + b_g."""

    def __init__(self, groups: int, in_width: int, out_width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_width)
        self.weight = nn.Parameter(torch.empty(groups, in_width, out_width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_width).uniform_(-bound, bound))

    def forward(self, x_GBI: Tensor, norm: BatchNorm | None = None) -> Tensor:
        """`[groups, n, in]` -> `[groups, n, out]`, normalised by `norm`, which is folded in after training."""
        if norm is None:
            return x_GBI @ self.weight + self.bias
        if norm.training:
            normalised: Tensor = norm(x_GBI @ self.weight + self.bias)
            return normalised
        weight, bias = norm.folded(self.weight, self.bias)
        return x_GBI @ weight + bias


class GroupedMlp(nn.Module):
    """`groups` independent multi-layer perceptrons with ReLU and dropout between layers.

    The last layer is linear if `last_linear`. With `batch_norm` the input of each ReLU is normalised over the batch.
    """

    def __init__(
        self, groups: int, widths: Sequence[int], dropout: float, last_linear: bool, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GroupedLinear(groups, a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.dropout = nn.Dropout(dropout)
        self.last_linear = last_linear
        hidden = widths[1:-1] if last_linear else widths[1:]
        self.norms = nn.ModuleList([BatchNorm(width, groups) for width in hidden if batch_norm])

    def forward(self, x_GBI: Tensor) -> Tensor:
        """`[groups, n, widths[0]]` -> `[groups, n, widths[-1]]`."""
        for i, layer in enumerate(self.layers):
            x_GBI = layer(x_GBI, self.norms[i]) if i < len(self.norms) else layer(x_GBI)
            if not (self.last_linear and i == len(self.layers) - 1):
                x_GBI = self.dropout(torch.relu(x_GBI))
        return x_GBI
