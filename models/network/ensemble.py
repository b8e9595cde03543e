"""An ensemble: networks of one recipe with different seeds, below one set of task structures."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.data.encoding.encoding import Encoding
from models.layers.position_bias import PositionTower
from models.network.embedding.inputs import Batch
from models.network.model import Embedded, MultiTaskModel
from models.recipe import Recipe
from models.structures.base import TaskStructure
from models.trunks.base import TrunkInput


class Ensemble(MultiTaskModel):
    """The first member, which also holds the `others`; the logits are the mean over all members.

    The mean is that of logits and not of probabilities, because every task kind has logits, and because the products of
    a chain and the calibration are computed once from them: pctcvr = pctr * pcvr and pctcvr <= pctr hold as for one
    network, but would not hold for means of the three probabilities. For probabilities this is the normalised geometric
    mean of the members (Hinton 2002, products of experts). A softmax has a logit per class, so that the
    probabilities of its classes still sum to 1.

    Members are trained separately; only the finished ensemble has this class.
    """

    def __init__(
        self,
        recipe: Recipe,
        encoding: Encoding,
        structures: list[TaskStructure],
        position: PositionTower | None,
        others: Sequence[MultiTaskModel],
    ) -> None:
        super().__init__(recipe, encoding, structures, position)
        self.others = nn.ModuleList(others)
        self.composition |= {"members": str(1 + len(others))}

    def logits_of(self, batch: Batch, embedded: Embedded, inputs: TrunkInput) -> dict[str, Tensor]:
        """The mean of the members' logits by head, and by output for the tasks on the user's representation.

        `embedded` and `inputs` are the first member's.
        """
        of_members = [super().logits_of(batch, embedded, inputs)]
        for other in self.others:
            assert isinstance(other, MultiTaskModel)
            of_members.append(other.logits(batch))
        return _means(of_members)

    def position_constants(self) -> dict[str, Tensor]:
        """The mean of the constants of the members' position towers for a missing position, by head."""
        towers = [self.position, *(other.position for other in self.others)]
        return _means([tower.missing_constants() for tower in towers if isinstance(tower, PositionTower)])


def _means(of_members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    names = of_members[0] if of_members else ()
    return {name: torch.stack([values[name] for values in of_members]).mean(0) for name in names}
