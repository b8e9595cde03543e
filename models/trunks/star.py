"""STAR: one network for many domains, whose weights are the product of shared weights and those of the domain.

Sheng et al., One Model to Serve All: Star Topology Adaptive Recommender for Multi-Domain CTR Prediction, CIKM 2021
(arXiv 2101.11427). With p the domain of an impression, x its input:
  partitioned normalisation: z = gamma gamma_p (x - E_p) / sqrt(Var_p + eps) + beta + beta_p. E_p and Var_p are those of
    the domain's impressions in the batch; at serving they are moving averages, fixed;
  star topology: each layer has the weights W * W_p (element by element) and the bias b + b_p;
  auxiliary network: a small network of its own on the domain's embedding and x, whose logit is added.
The last layer is the head's tower: W_p scales what the tower reads, which is the same product, and b_p is added to its
logit; so a recipe gives the tower no hidden layer. All heads share the hidden layers. The weights of a domain start at
1 and its biases at 0, so every domain starts as the shared network; an impression of no listed domain is scored by the
shared weights alone and normalised by the statistics of all impressions.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers.linear import PartLinear
from models.options import Hidden
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

# Shape legend: B impressions or candidates (1 for what belongs to the request at serving), D domains of the recipe,
# N = D + 1 with the shared network in front, W width of a part, H heads, X width of the last hidden layer.

EPS = 1e-5
MOMENTUM = 0.01


class StarOptions(TrunkOptions):
    """`hidden`: the star layers; `auxiliary_hidden` and `domain_dim`: widths of the auxiliary network."""

    needs_domain: ClassVar[bool] = True
    type: Literal["star"]
    hidden: Hidden = (128, 64)
    auxiliary_hidden: Annotated[int, Field(ge=1, le=1024)] = 16
    domain_dim: Annotated[int, Field(ge=1, le=512)] = 8

    def build(self, spec: TrunkSpec) -> "Star":
        return Star(spec, self.hidden, self.auxiliary_hidden, self.domain_dim)


def with_shared(of_domains: Tensor, shared: float) -> Tensor:
    """`[D, ...]` -> `[N, ...]`: the neutral value of the shared network in front, where domain 0 finds it."""
    return torch.cat([torch.full_like(of_domains[:1], shared), of_domains])


class PartitionedNorm(nn.Module):
    """Normalises one part by the statistics and with the affine weights of its domain."""

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, width: int, domains: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.domain_gamma = nn.Parameter(torch.ones(domains, width))
        self.domain_beta = nn.Parameter(torch.zeros(domains, width))
        self.register_buffer("mean", torch.zeros(domains + 1, width))
        self.register_buffer("variance", torch.ones(domains + 1, width))
        self.register_buffer("batches", torch.zeros(domains + 1))

    def forward(self, part_BW: Tensor, domain_B: Tensor) -> Tensor:
        """`[B, W]` and the domain of each row -> `[B, W]`; at serving one domain for all rows."""
        mean_NW, variance_NW = (
            self._batch_statistics(part_BW, domain_B) if self.training else (self.mean, self.variance)
        )
        scale_NW = self.gamma * with_shared(self.domain_gamma, 1.0) / torch.sqrt(variance_NW + EPS)
        shift_NW = self.beta + with_shared(self.domain_beta, 0.0) - mean_NW * scale_NW
        return part_BW * scale_NW.index_select(0, domain_B) + shift_NW.index_select(0, domain_B)

    def _batch_statistics(self, part_BW: Tensor, domain_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance `[N, W]` in the batch; moving averages for a domain with fewer than two rows."""
        means = list(self.mean)
        variances = list(self.variance)
        for domain in range(len(means)):
            rows_BW = part_BW if domain == 0 else part_BW[domain_B == domain]
            if len(rows_BW) >= 2:
                means[domain] = rows_BW.mean(0)
                variances[domain] = rows_BW.var(0, correction=0)
                self._move(domain, means[domain].detach(), variances[domain].detach())
        return torch.stack(means), torch.stack(variances)

    def _move(self, domain: int, mean_W: Tensor, variance_W: Tensor) -> None:
        """Moving averages that start as plain averages, so that a rare domain is not held at the initial 0 and 1."""
        self.batches[domain] += 1
        momentum = max(MOMENTUM, 1 / float(self.batches[domain]))
        self.mean[domain] = self.mean[domain].lerp(mean_W, momentum)
        self.variance[domain] = self.variance[domain].lerp(variance_W, momentum)


class StarLinear(nn.Module):
    """y = x (W * W_p) + b + b_p over parts x of widths `in_widths`."""

    def __init__(self, in_widths: Sequence[int], out_width: int, domains: int) -> None:
        super().__init__()
        self.shared = PartLinear(in_widths, out_width)
        self.weights = nn.ParameterList([torch.ones(domains, width, out_width) for width in in_widths])
        self.bias = nn.Parameter(torch.zeros(domains, out_width))

    def forward(self, parts: Sequence[Tensor], domain_1: Tensor) -> Tensor:
        """Parts `[B or 1, width]`, all of one domain -> `[B, out]`."""
        total = self.shared.bias + with_shared(self.bias, 0.0).index_select(0, domain_1)
        for part, weight, of_domains in zip(parts, self.shared.weights, self.weights, strict=True):
            factor = with_shared(of_domains, 1.0).index_select(0, domain_1)[0]
            total = total + part @ (weight * factor)
        return total


class Star(Trunk):
    """Partitioned normalisation, the star layers, and the auxiliary network beside them."""

    def __init__(self, spec: TrunkSpec, hidden: Sequence[int], auxiliary_hidden: int, domain_dim: int) -> None:
        super().__init__()
        domains = spec.domains
        heads = len(spec.heads)
        self.out_width = hidden[-1]
        self.norms = nn.ModuleList([PartitionedNorm(width, domains) for width in spec.in_widths])
        layers = [StarLinear(spec.in_widths, hidden[0], domains)]
        layers += [StarLinear((a,), b, domains) for a, b in zip(hidden[:-1], hidden[1:], strict=True)]
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(spec.dropout)
        self.head_weights = nn.Parameter(torch.ones(domains, heads, hidden[-1]))
        self.head_bias = nn.Parameter(torch.zeros(domains, heads))
        self.domain_embedding = nn.Embedding(domains + 1, domain_dim)
        self.auxiliary_first = PartLinear([domain_dim, *spec.in_widths], auxiliary_hidden)
        self.auxiliary_last = nn.Linear(auxiliary_hidden, heads)

    def forward(self, inputs: TrunkInput) -> Tensor:
        """`[H, B, X]`, by head in order: the last hidden layer, scaled by the last layer's weights of the domain."""
        assert inputs.domain is not None
        domain_B = inputs.domain
        parts = [norm(part, domain_B) for norm, part in zip(self.norms, inputs.parts, strict=True)]
        if domain_B.shape[0] == 1:
            hidden_BX = self._hidden(parts, domain_B)
        else:
            hidden_BX = self._hidden_by_domain(parts, domain_B)
        factors_BHX = with_shared(self.head_weights, 1.0).index_select(0, domain_B)
        return hidden_BX.unsqueeze(0) * factors_BHX.transpose(0, 1)

    def _hidden(self, parts: Sequence[Tensor], domain_1: Tensor) -> Tensor:
        """Normalised parts of one domain -> the last hidden layer `[B, X]`."""
        for layer in self.layers:
            parts = [self.dropout(torch.relu(layer(parts, domain_1)))]
        return parts[0]

    def _hidden_by_domain(self, parts: Sequence[Tensor], domain_B: Tensor) -> Tensor:
        """Normalised parts of rows `[B]` of several domains, each with its domain's weights -> `[B, X]`."""
        order = torch.argsort(domain_B, stable=True)
        counts = torch.bincount(domain_B).tolist()
        pieces = []
        for domain, rows in enumerate(order.split(counts)):
            if len(rows):
                pieces.append(self._hidden([part[rows] for part in parts], order.new_tensor([domain])))
        return torch.cat(pieces).index_select(0, torch.argsort(order))

    def logit_shift(self, inputs: TrunkInput) -> Tensor:
        """The auxiliary network's logits and the domain's bias of the last layer, `[H, B]`."""
        assert inputs.domain is not None
        embedded = self.domain_embedding(inputs.domain)
        first = torch.relu(self.auxiliary_first([embedded, *inputs.parts]))
        bias = with_shared(self.head_bias, 0.0).index_select(0, inputs.domain)
        return (self.auxiliary_last(self.dropout(first)) + bias).transpose(0, 1)
