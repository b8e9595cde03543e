"""The loss of every trained output: its own loss over its space, plus its list loss if the recipe has one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.kinds import Score
from models.layers.linear import PartLinear
from models.layers.probability import LogProbability
from models.list_losses import ListLossOptions
from models.list_losses.base import Lists
from models.network.losses import counted, label_of, mean_loss
from models.network.weights import Weights
from models.structures.base import WEIGHT, Output

DENSITY_HIDDEN = 32

# Shape legend: B impressions, K outputs whose list loss needs a density.


class Density(nn.Module):
    """One logit per output that JRC needs in addition to the probability. It is trained and not served."""

    def __init__(self, in_widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.first = PartLinear(in_widths, DENSITY_HIDDEN)
        self.last = nn.Linear(DENSITY_HIDDEN, outputs)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """The parts of the trunk's input -> `[B, K]`."""
        return self.last(torch.relu(self.first(parts)))


class Objective(nn.Module):
    """The losses of a model's outputs; `list_losses` by output."""

    def __init__(
        self,
        outputs: Sequence[Output],
        list_losses: Mapping[str, ListLossOptions],
        in_widths: Sequence[int],
        weights: Weights,
    ) -> None:
        super().__init__()
        self.outputs = [output for output in outputs if output.trained]
        self.weights = weights
        self.list_losses = dict(list_losses)
        self.with_density = [name for name, loss in list_losses.items() if loss.needs_density]
        self.density = Density(in_widths, len(self.with_density)) if self.with_density else None

    def forward(
        self,
        scores: Mapping[str, Score],
        batch: Mapping[str, Tensor],
        parts: Sequence[Tensor],
        logits: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the loss of each trained output, a scalar each; `parts` are the parts of the trunk's input."""
        densities: dict[str, Tensor] = {}
        if self.density is not None:
            densities = dict(zip(self.with_density, self.density(parts).unbind(-1), strict=True))
        losses: dict[str, Tensor] = {}
        for output in self.outputs:
            score = scores[output.name]
            weight_B = self.weights.of(batch, output.name)
            own = batch if weight_B is None else {**batch, WEIGHT: weight_B}
            if output.correction is None:
                losses[output.name] = mean_loss(score, own, output)
            else:
                label_B = label_of(batch, output.label)
                losses[output.name] = output.correction.loss(score, label_B, own, logits)
            list_loss = self.list_losses.get(output.name)
            if list_loss is not None:
                of_lists = _of_lists(list_loss, score, own, output, densities.get(output.name))
                losses[output.name] = losses[output.name] + list_loss.weight * of_lists
        return losses

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The number of impressions that the loss of each trained output is a mean over, a float scalar each."""
        return {output.name: counted(batch, output).sum() for output in self.outputs}


def _of_lists(
    list_loss: ListLossOptions, score: Score, batch: Mapping[str, Tensor], output: Output, density_B: Tensor | None
) -> Tensor:
    """The list loss over the impressions of the output's space."""
    assert isinstance(score, LogProbability)
    label_B = label_of(batch, output.label)
    group_B = batch["group"]
    weight_B = batch.get(WEIGHT)
    if output.space:
        inside = torch.nonzero(label_of(batch, output.space) > 0)[:, 0]
        score = LogProbability(score.yes[inside], score.no[inside])
        label_B = label_B[inside]
        group_B = group_B[inside]
        density_B = None if density_B is None else density_B[inside]
        weight_B = None if weight_B is None else weight_B[inside]
    return list_loss.loss(score, label_B, Lists.of(group_B, weight_B), density_B)
