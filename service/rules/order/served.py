"""Holds what the earlier pages of a list showed, so that rules hold across pages."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Served:
    """The positions of earlier pages: their items, and by the place of each rule what it counts at each position."""

    item_ids: Sequence[str] = ()
    values: Mapping[int, Sequence[Hashable]] = field(default_factory=dict)

    def of_rule(self, rule: int) -> Sequence[Hashable]:
        """What a rule counted at every position; False for one that meant nothing there, as a pin to a later page."""
        return self.values.get(rule) or [False] * len(self.item_ids)

    def and_then(self, item_ids: Sequence[str], values: Mapping[int, Sequence[Hashable]]) -> "Served":
        """These positions and those of a next page."""
        nothing = [False] * len(item_ids)
        joined = {rule: [*self.of_rule(rule), *values.get(rule, nothing)] for rule in {*self.values, *values}}
        return Served([*self.item_ids, *item_ids], joined)
