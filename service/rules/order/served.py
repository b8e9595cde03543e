"""Holds the positions of a list's earlier pages, so that rules hold across pages."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Served:
    """The positions of earlier pages: their items, and the value that each rule counts at each position."""

    item_ids: Sequence[str] = ()
    values: Mapping[int, Sequence[Hashable]] = field(default_factory=dict)

    def of_rule(self, rule: int) -> Sequence[Hashable]:
        """The value of a rule at every position; False for a rule that did not apply there, such as a pin to a later
        page.
        """
        return self.values.get(rule) or [False] * len(self.item_ids)

    def and_then(self, item_ids: Sequence[str], values: Mapping[int, Sequence[Hashable]]) -> "Served":
        """Append the positions of a next page."""
        nothing = [False] * len(item_ids)
        joined = {rule: [*self.of_rule(rule), *values.get(rule, nothing)] for rule in {*self.values, *values}}
        return Served([*self.item_ids, *item_ids], joined)
