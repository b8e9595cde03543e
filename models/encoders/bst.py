"""BST: a Transformer over the behaviours and the candidate.

Chen et al., Behavior Sequence Transformer for E-commerce Recommendation in Alibaba, DLP-KDD 2019 (arXiv 1905.06874),
section 2.2. With E the places of a sequence (the candidate, then the behaviours), one row each:
  head_i = softmax((E W_Q)(E W_K)^T / sqrt(d)) (E W_V) of its own weights;  S = concat(head_1, ..., head_h) W_H
  S' = LayerNorm(E + S);  F = LayerNorm(S' + LeakyReLU(S' W_1 + b_1) W_2 + b_2)
Each block is such a pair of layers. The age of a behaviour, which is one of its properties, takes the place of the
paper's position, the time between behaviour and request; a learned vector marks the candidate.
The paper gives the network all places of a sequence of fixed length. Sequences have any length here, so the output is
the candidate's place and, as in TransAct (Xia et al., KDD 2023, arXiv 2306.00248), the largest value over all places.
The cost of a ranking grows with C (L + 1)^2, since each candidate is read together with the behaviours.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, View

# Shape legend: B candidates (or impressions), L behaviours, N = L + 1 places, G = I + P, I item part of a behaviour,
# P its property part, D width of a place, M attention heads, d = D / M.


class BstOptions(EncoderOptions):
    """`width`: of a place, a multiple of `attention_heads`; `feed_forward`: of the layer inside a block."""

    type: Literal["bst"]
    width: Annotated[int, Field(ge=1, le=512)] = 32
    attention_heads: Annotated[int, Field(ge=1, le=16)] = 4
    feed_forward: Annotated[int, Field(ge=1, le=2048)] = 64
    blocks: Annotated[int, Field(ge=1, le=4)] = 1

    @model_validator(mode="after")
    def _whole_heads(self) -> "BstOptions":
        if self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is no multiple of attention_heads {self.attention_heads}")
        return self

    def build(self, spec: EncoderSpec) -> "Bst":
        return Bst(spec, self.width, self.attention_heads, self.feed_forward, self.blocks)


class TransformerBlock(nn.Module):
    """Self-attention and a network at each place, both with a residual and a normalisation."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.joined = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.first_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.second_norm = nn.LayerNorm(width)

    def forward(self, places_BND: Tensor, mask_BN: Tensor) -> Tensor:
        """`[B, N, D]` and the real places `[B or 1, N]` -> `[B, N, D]`."""
        query, key, value = (
            layer(places_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, M, N, d]
            for layer in (self.query, self.key, self.value)
        )
        raw_BMNN = query @ key.transpose(-1, -2) / math.sqrt(places_BND.shape[-1] / self.heads)
        weights_BMNN = torch.softmax(raw_BMNN.masked_fill(~mask_BN[:, None, None], -1e9), -1)
        attended = (weights_BMNN @ value).transpose(1, 2).flatten(-2)
        first_BND = self.first_norm(places_BND + self.joined(attended))
        return self.second_norm(first_BND + self.down(nn.functional.leaky_relu(self.up(first_BND))))


class Bst(Encoder):
    """The blocks; their output at the candidate, and the largest value over the real places."""

    sees_candidate = True

    def __init__(self, spec: EncoderSpec, width: int, heads: int, feed_forward: int, blocks: int) -> None:
        super().__init__()
        self.item_width = spec.item_width
        self.of_item = nn.Linear(spec.item_width, width)
        self.of_property = nn.Linear(spec.property_width, width, bias=False)
        self.candidate = nn.Parameter(torch.empty(width).normal_(std=0.1))
        self.blocks = nn.ModuleList([TransformerBlock(width, heads, feed_forward) for _ in range(blocks)])
        self.out_width = 2 * width

    def places(self, behaviours_BLG: Tensor, target_BI: Tensor) -> Tensor:
        """Behaviours `[B or 1, L, I + P]`, target `[B, I]` -> the candidate and the behaviours `[B, N, D]`."""
        items_BLI = behaviours_BLG[..., : self.item_width]
        properties_BLP = behaviours_BLG[..., self.item_width :]
        behaviours_BLD = self.of_item(items_BLI) + self.of_property(properties_BLP)
        candidate_BD = self.of_item(target_BI) + self.candidate
        # One user's behaviours are mapped once and repeated afterwards, as each candidate has a sequence of its own.
        behaviours_BLD = behaviours_BLD.expand(candidate_BD.shape[0], -1, -1)
        return torch.cat([candidate_BD.unsqueeze(1), behaviours_BLD], 1)

    def forward(self, view: View) -> Tensor:
        """A view of B impressions, or of one request and B candidates -> `[B, 2 D]`."""
        places_BND = self.places(view.behaviours, view.target)
        # The candidate's place is always real, so a sequence without behaviours has one place.
        mask_BN = torch.cat([view.mask.new_ones(view.mask.shape[0], 1), view.mask], 1)
        for block in self.blocks:
            places_BND = block(places_BND, mask_BN)
        largest_BD = places_BND.masked_fill(~mask_BN.unsqueeze(-1), -1e9).amax(1)
        return torch.cat([places_BND[:, 0], largest_BD], -1)
