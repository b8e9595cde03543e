"""DIN: target attention over the behaviour sequence.

Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018 (arXiv 1706.06978). Equation 3: v_U(A) =
sum_j a(e_j, v_A) e_j, where a() is a small network on [e, v, e - v, e * v]. There is no softmax, so that the weights
keep the intensity of interest. The official code has a softmax; here softmax and mean are options. A sum grows with the
length of the sequence, so it also encodes how active the user is; softmax and mean do not.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, View
from models.layers.activation import Dice, PRelu
from models.layers.normalisation import BatchNorm
from models.options import Hidden

# Shape legend: B candidates (or impressions), C candidates of one user, L behaviours, G = I + P,
# I item part of a behaviour, P its property part, J = I + 1, X hidden width.


class DinOptions(EncoderOptions):
    """`hidden`: widths of the network that weighs a behaviour.

    `softmax`: the weights of a sequence are normalised to a sum of one; `mean`: they are divided by its length.
    `context`: the network reads the request's context too. `batch_norm`: the inputs of its activations are normalised
    over the real behaviours of a batch, and the normalisation is folded into its weights for serving.
    """

    type: Literal["din"]
    hidden: Hidden = (32, 16)
    activation: Literal["prelu", "dice"] = "prelu"
    softmax: bool = False
    mean: Annotated[bool, Field(exclude_if=lambda value: not value)] = False

    context: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    batch_norm: Annotated[bool, Field(exclude_if=lambda value: not value)] = False

    @model_validator(mode="after")
    def _one_normalisation(self) -> "DinOptions":
        if self.softmax and self.mean:
            raise ValueError("softmax and mean are two ways to normalise: set one of them")
        if self.batch_norm and self.activation == "dice":
            raise ValueError("dice normalises over the batch by itself: remove batch_norm")
        return self

    def build(self, spec: EncoderSpec) -> "Din":
        context_width = spec.context_width if self.context else 0
        options = (self.hidden, self.activation, self.softmax, self.mean, context_width, self.batch_norm)
        return Din(spec.item_width, spec.property_width, *options)


class ActivationUnit(nn.Module):
    """a(h, v): first layer on [e, v, e - v, e * v, p], then `hidden` widths, then one linear output.

    W [e; v; e - v; e * v] = (W1 + W3) e + (W2 - W3) v + W4 (e * v): the same numbers, but the term of the behaviours is
    computed once per request and the term of the candidate once per candidate; only the product term is per pair.
    """

    def __init__(
        self,
        item_width: int,
        property_width: int,
        hidden: Sequence[int],
        activation: Literal["prelu", "dice"],
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(4 * item_width + property_width)
        self.item_width = item_width
        self.weight = nn.Parameter(torch.empty(4 * item_width, hidden[0]).uniform_(-bound, bound))
        self.property_weight = nn.Parameter(torch.empty(property_width, hidden[0]).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(hidden[0]))
        make = {"prelu": PRelu, "dice": Dice}[activation]
        self.first_activation = make(hidden[0])
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(hidden[:-1], hidden[1:], strict=True)])
        self.activations = nn.ModuleList([make(width) for width in hidden[1:]])
        self.out = nn.Linear(hidden[-1], 1)
        self.norms = nn.ModuleList([BatchNorm(width) for width in hidden if batch_norm])

    def forward(self, behaviours_BLG: Tensor, mask_BL: Tensor, target_BI: Tensor) -> Tensor:
        """Behaviours `[B or 1, L, I + P]`, target `[B, I]` -> raw attention weights `[B, L]`."""
        if behaviours_BLG.shape[0] == 1 and not self.training:
            return self._of_one_user(behaviours_BLG[0], target_BI)
        of_behaviour, of_target, of_difference, of_product = self.weight.split(self.item_width)
        items_BLI = behaviours_BLG[..., : self.item_width]
        properties_BLP = behaviours_BLG[..., self.item_width :]
        behaviour_BLX = items_BLI @ (of_behaviour + of_difference) + properties_BLP @ self.property_weight + self.bias
        target_B1X = (target_BI @ (of_target - of_difference)).unsqueeze(1)
        product_BLX = (items_BLI * target_BI.unsqueeze(1)) @ of_product
        x = product_BLX + behaviour_BLX + target_B1X
        x = self.first_activation(self._normalised(0, x, mask_BL), mask_BL)
        for i, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            x = activation(self._normalised(i + 1, layer(x), mask_BL), mask_BL)
        return self.out(x).flatten(-2)

    def _normalised(self, layer: int, x_BLX: Tensor, mask_BL: Tensor) -> Tensor:
        if not self.norms:
            return x_BLX
        norm = self.norms[layer]
        assert isinstance(norm, BatchNorm)
        return norm(x_BLX, mask_BL)

    def _folded(self, layer: int, weight_IX: Tensor, bias_X: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and bias of a layer with the normalisation after it."""
        if not self.norms:
            return weight_IX, bias_X
        norm = self.norms[layer]
        assert isinstance(norm, BatchNorm)
        weight, bias = norm.folded(weight_IX, bias_X)
        return weight, bias.flatten()

    def _of_one_user(self, behaviours_LG: Tensor, target_CI: Tensor) -> Tensor:
        """Attention weights for the behaviours of one user `[L, I + P]` and all candidates -> `[C, L]`.

        W4 (e * v) = (W4 diag(e)) v, so [W2 - W3 + W4 diag(e); (W1 + W3) e + Wp p + b] times [v; 1] is the whole first
        layer: a matrix per behaviour, computed once per request. Only the results of the layers exist for every pair.
        """
        whole, bias = self._folded(0, torch.cat([self.weight, self.property_weight]), self.bias)
        weight, property_weight = whole.split([4 * self.item_width, whole.shape[0] - 4 * self.item_width])
        of_behaviour, of_target, of_difference, of_product = weight.split(self.item_width)
        items_LI = behaviours_LG[:, : self.item_width]
        properties_LP = behaviours_LG[:, self.item_width :]
        of_target_LIX = items_LI.unsqueeze(-1) * of_product + (of_target - of_difference)
        constant_LX = items_LI @ (of_behaviour + of_difference) + properties_LP @ property_weight + bias
        with_one_CJ = torch.cat([target_CI, torch.ones_like(target_CI[:, :1])], -1)
        pairs_LCX = with_one_CJ @ torch.cat([of_target_LIX, constant_LX.unsqueeze(1)], 1)
        # Plain matrices from here on, because a bias is then part of the product; over three axes it would need another
        # pass.
        x = pairs_LCX.flatten(0, 1)
        *activations, last = [self.first_activation, *self.activations]
        for i, (activation, layer) in enumerate(zip(activations, self.layers, strict=True)):
            assert isinstance(layer, nn.Linear)
            weight, bias = self._folded(i + 1, layer.weight.T, layer.bias)
            if isinstance(activation, PRelu):
                x = activation.before(weight, bias, x)
            else:
                x = torch.addmm(bias, activation(x), weight)
        x = last.before_one(self.out, x) if isinstance(last, PRelu) else self.out(last(x))
        return x.reshape(pairs_LCX.shape[:2]).T


class Din(Encoder):
    """The weighted sum of the behaviours; the weights of padding are exactly zero."""

    sees_candidate = True

    def __init__(
        self,
        item_width: int,
        property_width: int,
        hidden: Sequence[int],
        activation: Literal["prelu", "dice"],
        softmax: bool,
        mean: bool = False,
        context_width: int = 0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        # The context is among the properties of every behaviour for the unit, and no part of the sum.
        self.context_width = context_width
        self.unit = ActivationUnit(item_width, property_width + context_width, hidden, activation, batch_norm)
        self.softmax = softmax
        self.mean = mean
        self.item_width = item_width
        self.out_width = item_width + property_width

    def weights(self, behaviours_BLG: Tensor, mask_BL: Tensor, target_BI: Tensor) -> Tensor:
        """Attention weights `[B, L]`, zero where `mask_BL` is False."""
        raw_BL = self.unit(behaviours_BLG, mask_BL, target_BI)
        if self.softmax:
            raw_BL = torch.softmax((raw_BL / math.sqrt(self.item_width)).masked_fill(~mask_BL, -1e9), -1)
        real_BL = mask_BL.to(raw_BL.dtype)
        if self.mean:
            raw_BL = raw_BL / real_BL.sum(-1, keepdim=True).clamp(min=1)
        return raw_BL * real_BL

    def forward(self, view: View) -> Tensor:
        """Behaviours `[B or 1, L, I + P]` weighted for each candidate -> `[B, I + P]`."""
        behaviours_BLG = view.behaviours
        read_BLG = behaviours_BLG
        if self.context_width:
            assert view.context is not None
            context_BLK = view.context.unsqueeze(1).expand(-1, behaviours_BLG.shape[1], -1)
            read_BLG = torch.cat([behaviours_BLG, context_BLK], -1)
        weights_BL = self.weights(read_BLG, view.mask, view.target)
        if behaviours_BLG.shape[0] == 1:  # one user for all candidates: one product instead of one per candidate
            return weights_BL @ behaviours_BLG[0]
        return (weights_BL.unsqueeze(1) @ behaviours_BLG)[:, 0]
