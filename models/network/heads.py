"""The steps between the towers and the task structures: logits by head, networks on the representation, factors."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.errors import RecipeError
from models.network.embedding.inputs import Batch
from models.structures.base import Output, TaskStructure
from models.structures.chain import Chain
from models.structures.representation import OfRepresentation
from models.structures.statistics import WithStatistics

# Shape legend: B impressions or candidates, H heads, W logits per head.


def by_head(logits_HBW: Tensor, structures: Sequence[TaskStructure], batch: Batch) -> dict[str, Tensor]:
    """Split the logits by head; a head with fewer logits than the widest one leaves the other columns unused.

    Numbers of the candidates that a task reads are among them, by their names.
    """
    logits = _logits_by_head(logits_HBW, structures)
    for structure in structures:
        for name, column in structure.numbers.items():
            logits[name] = batch["item_numerics"][..., column]
    return logits


def _logits_by_head(logits_HBW: Tensor, structures: Sequence[TaskStructure]) -> dict[str, Tensor]:
    heads = [(head, structure.width) for structure in structures for head in structure.heads]
    if logits_HBW.shape[-1] == 1:
        logits_HB = logits_HBW.squeeze(-1)
        return {head: logits_HB[i] for i, (head, _) in enumerate(heads)}  # one operation of the graph per head
    logits: dict[str, Tensor] = {}
    for i, (head, width) in enumerate(heads):
        if width == 1:
            logits[head] = logits_HBW[i][:, 0]
        else:
            logits[head] = logits_HBW[i][:, :width]
    return logits


def representation_networks(
    structures: Sequence[TaskStructure], width: int, hidden: Sequence[int], dropout: float, user_item: int
) -> nn.ModuleDict:
    """By output: the networks of the tasks that read the user's representation of `width` instead of the trunk.

    `user_item`: the number of user x item features.

    Raises RecipeError if there is no representation.
    """
    networks = nn.ModuleDict()
    for structure in structures:
        if isinstance(structure, OfRepresentation):
            if not width:
                problem = "a task reads the user's representation, which needs behaviours and an encoder such as dupn"
                raise RecipeError(f"model.encoders: {problem}", ("model", "encoders"))
            networks[structure.outputs[0].name] = structure.network(width, hidden, dropout, user_item)
    return networks


def factors_of(structure: TaskStructure) -> list[Output]:
    """Return the outputs of a structure that are calibrated: the factors of a chain, or its own probabilities."""
    if isinstance(structure, Chain):
        return list(structure.factors)
    return [output for output in structure.outputs if output.kind.calibrated]


def statistics_of(structures: Sequence[TaskStructure]) -> nn.ModuleDict:
    """The statistics of the tasks that have some, by output: buffers that are saved with the weights."""
    with_some = [structure for structure in structures if isinstance(structure, WithStatistics)]
    return nn.ModuleDict({structure.outputs[0].name: structure.statistics for structure in with_some})
