"""DUPN's encoder: a property-gated LSTM over the behaviours, and attention that knows the request.

Ni et al., Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce Tasks, KDD
2018 (arXiv 1805.10727), sections 4.2 to 4.4. With e the behaviour's item, p its properties (action, scene, time) and h
the state before:
  i = sigmoid(W_ei e + W_pi p + W_hi h + b_i), f and o alike
  c' = f * c + i * tanh(W_ec e + W_hc h + b_c), without p;  h' = o * tanh(c')
  a = softmax over real behaviours of a two-layer network on [h_t, query, user, p_t];  rep_s = sum_t a_t h_t;  rep =
  [rep_s; u]
The query is the request's context and u a linear map of the user's features. Nothing here looks at the candidate, so
the representation is computed once per request. Where there is no search, and so no query, the candidate can be the
query too; the attention then has a sum per candidate, and no task can read a representation of the user alone.

The paper's ablations leave the properties p out of the LSTM, of the attention, or of both: section 5.2, `all`, `bplstm`
(in the LSTM alone), `bpatt` (in the attention alone) and `nobp`.
"""

import math
from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.encoders.base import Encoder, EncoderOptions, EncoderSpec, View

# Shape legend: B requests, L behaviours, G = I + P, I item part, P property part, H state, A hidden width of the
# attention, U user, K context, R representation.

TORCH_ORDER = "ifco"
ONNX_ORDER = "iofc"  # how each stacks the weights of the gates; c is the cell's candidate
GATED = "ifo"  # the gates that see the properties


Place = Literal["lstm", "attention"]
EVERYWHERE: tuple[Place, ...] = ("lstm", "attention")


class DupnOptions(EncoderOptions):
    """`hidden`: width of the LSTM's state; `user_hidden`: of the user's own part of the representation.

    `properties`: the places that read the properties of a behaviour. `query`: what the attention reads in addition to
    the user and the properties.
    """

    type: Literal["dupn"]
    hidden: Annotated[int, Field(ge=1, le=1024)] = 128
    user_hidden: Annotated[int, Field(ge=1, le=1024)] = 128
    attention_hidden: Annotated[int, Field(ge=1, le=1024)] = 64
    properties: Annotated[tuple[Place, ...], Field(exclude_if=lambda value: value == EVERYWHERE)] = EVERYWHERE
    query: Annotated[Literal["request", "candidate"], Field(exclude_if=lambda value: value == "request")] = "request"

    def build(self, spec: EncoderSpec) -> "Dupn":
        widths = (spec.item_width, spec.property_width, spec.user_width, spec.context_width)
        hidden = (self.hidden, self.user_hidden, self.attention_hidden)
        return Dupn(*widths, *hidden, self.properties, self.query == "candidate")


class PropertyGatedLstm(nn.Module):
    """A standard LSTM on [e; p; 1] whose cell candidate has no weights for p.

    So one fused kernel, and one LSTM op of ONNX, compute it. The biases are the weights of the constant 1, which
    padding does not have: padding then gives the candidate tanh(0) = 0, and a state of zero stays exactly zero.
    Behaviours come newest first and are read oldest first, so padding is read first and changes nothing.
    """

    def __init__(self, item_width: int, property_width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        bound = 1 / math.sqrt(hidden)

        def weights(gates: str, width: int) -> nn.ParameterDict:
            return nn.ParameterDict({gate: torch.empty(hidden, width).uniform_(-bound, bound) for gate in gates})

        self.of_item = weights(TORCH_ORDER, item_width)
        self.of_state = weights(TORCH_ORDER, hidden)
        self.of_property = weights(GATED, property_width)
        self.bias = weights(TORCH_ORDER, 1)

    def _stacked(self, order: str) -> tuple[Tensor, Tensor]:
        """Weights of the input `[4H, I + P + 1]` and of the state `[4H, H]`, gate by gate."""
        no_property = torch.zeros_like(self.of_property["i"])
        rows = [
            torch.cat([self.of_item[g], self.of_property[g] if g in GATED else no_property, self.bias[g]], 1)
            for g in order
        ]
        return torch.cat(rows), torch.cat([self.of_state[g] for g in order])

    def forward(self, behaviours_BLG: Tensor, mask_BL: Tensor) -> Tensor:
        """Behaviours `[B, L, I + P]`, newest first -> the state after each `[B, L, H]`; zero at padding."""
        real_BL1 = mask_BL.to(behaviours_BLG.dtype).unsqueeze(-1)
        x = torch.cat([behaviours_BLG * real_BL1, real_BL1], -1)
        x = torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1)  # one step of padding, so that no length is zero
        states = self._native(x) if torch.compiler.is_exporting() else self._fused(x)
        return states[:, :-1]

    def _fused(self, x: Tensor) -> Tensor:
        start = x.new_zeros(1, x.shape[0], self.hidden)
        weights = list(self._stacked(TORCH_ORDER))
        states, _, _ = torch.lstm(x.flip(1), (start, start), weights, False, 1, 0.0, self.training, False, True)
        return states.flip(1)

    def _native(self, x: Tensor) -> Tensor:
        """One LSTM op of ONNX, which reads backwards and leaves each state at the place of its behaviour."""
        of_input, of_state = self._stacked(ONNX_ORDER)
        steps = x.transpose(0, 1)
        states = torch.onnx.ops.symbolic(
            "LSTM",
            (steps, of_input.unsqueeze(0), of_state.unsqueeze(0)),
            attrs={"hidden_size": self.hidden, "direction": "reverse"},
            dtype=x.dtype,
            shape=(steps.shape[0], 1, steps.shape[1], self.hidden),
            version=14,
        )
        return states[:, 0].transpose(0, 1)


class Dupn(Encoder):
    """The representation [rep_s; u]: `hidden` numbers of the behaviours and `user_hidden` of the user."""

    sees_candidate: bool

    def __init__(
        self,
        item_width: int,
        property_width: int,
        user_width: int,
        context_width: int,
        hidden: int,
        user_hidden: int,
        attention_hidden: int,
        properties: Collection[Place] = EVERYWHERE,
        sees_candidate: bool = False,
    ) -> None:
        super().__init__()
        self.item_width = item_width
        self.sees_candidate = sees_candidate
        # The place of the properties that each part reads, none of them or all.
        self.lstm_width = item_width + (property_width if "lstm" in properties else 0)
        self.read_width = property_width if "attention" in properties else 0
        self.lstm = PropertyGatedLstm(item_width, self.lstm_width - item_width, hidden)
        if not user_width:
            user_hidden = 0
        self.user = nn.Linear(user_width, user_hidden) if user_width else None
        self.out_width = hidden + user_hidden
        self.of_step = nn.Linear(hidden + self.read_width, attention_hidden)
        request_width = context_width + user_hidden
        self.of_request = nn.Linear(request_width, attention_hidden, bias=False) if request_width else None
        self.attention = nn.Linear(attention_hidden, 1, bias=False)  # a bias would not change the softmax
        self.of_candidate = nn.Linear(item_width, attention_hidden, bias=False) if sees_candidate else None

    def weights(
        self,
        states_BLH: Tensor,
        properties_BLP: Tensor,
        request: list[Tensor],
        mask_BL: Tensor,
        target_BI: Tensor | None = None,
    ) -> Tensor:
        """Attention `[B, L]`: sums to one over real behaviours, zero at padding."""
        first_BLA = self.of_step(torch.cat([states_BLH, properties_BLP], -1))
        if self.of_request is not None:
            first_BLA = first_BLA + self.of_request(torch.cat(request, -1)).unsqueeze(1)
        if self.of_candidate is not None and target_BI is not None:
            first_BLA = first_BLA + self.of_candidate(target_BI).unsqueeze(1)
        raw_BL = self.attention(torch.relu(first_BLA))[..., 0].masked_fill(~mask_BL, -1e9)
        return torch.where(mask_BL, torch.softmax(raw_BL, -1), 0.0)

    def forward(self, view: View) -> Tensor:
        """A view of B requests, or of one -> `[B or 1, R]`; `[B, R]` if the candidate is the query."""
        states_BLH = self.lstm(view.behaviours[..., : self.lstm_width], view.mask)
        user = []
        if self.user is not None and view.user is not None:
            user = [self.user(view.user)]
        request = list(user)
        if view.context is not None:
            request.append(view.context)
        properties_BLP = view.behaviours[..., self.item_width : self.item_width + self.read_width]
        weights_BL = self.weights(states_BLH, properties_BLP, request, view.mask, view.target)
        if states_BLH.shape[0] == 1:  # one user for all candidates
            of_behaviours_BH = weights_BL @ states_BLH[0]
        else:
            of_behaviours_BH = (weights_BL.unsqueeze(1) @ states_BLH)[:, 0]
        if self.sees_candidate:
            user = [part.expand(of_behaviours_BH.shape[0], -1) for part in user]
        return torch.cat([of_behaviours_BH, *user], -1)
