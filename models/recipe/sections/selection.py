"""Parses `training.select_on`, which selects the best weights: `pctr`, `gauc(pctr)` or `ndcg@10(pctcvr)`."""

import re
from typing import NamedTuple

PATTERN = r"^(?:(?:auc|gauc|mrr|(?:ndcg|recall|gain_ndcg)@[1-9][0-9]*)\([a-z][a-z0-9_]*\)|[a-z][a-z0-9_]*)$"


class Selection(NamedTuple):
    """`metric` of the output `output`; None if the entry names only the output, which is then measured by its kind."""

    metric: str | None
    output: str

    def __str__(self) -> str:
        """Format the entry as in the recipe."""
        if self.metric is None:
            return self.output
        return f"{self.metric}({self.output})"

    @property
    def cutoff(self) -> int | None:
        """The k of a metric such as nDCG@k, None for other metrics."""
        match = re.fullmatch(r"[a-z_]+@([0-9]+)", self.metric or "")
        if match is None:
            return None
        return int(match[1])


def selection_of(entry: str) -> Selection:
    """Parse an entry that matches PATTERN."""
    metric, bracket, rest = entry.partition("(")
    if not bracket:
        return Selection(None, entry)
    return Selection(metric, rest.removesuffix(")"))
