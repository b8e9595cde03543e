"""List losses train the order inside a list, in addition to the log loss. One paper is one file."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from models.list_losses.base import ListLossOptions
from models.list_losses.jrc import JrcOptions
from models.list_losses.pairwise import PairwiseOptions
from models.list_losses.softmax import SoftmaxOptions

__all__ = ["LIST_LOSSES", "ListLoss", "ListLossOptions"]

# The list losses that a recipe can name; a new one needs its file and one line here.
LIST_LOSSES: tuple[type[ListLossOptions], ...] = (SoftmaxOptions, PairwiseOptions, JrcOptions)

if TYPE_CHECKING:
    ListLoss = ListLossOptions
else:
    ListLoss = Annotated[Union[LIST_LOSSES], Field(discriminator="type")]  # noqa: UP007
