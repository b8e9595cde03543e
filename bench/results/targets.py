"""Owns what the bench holds its figures to, and the verdict on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.graphs import Compared

Costs = Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """A figure beside its bound."""

    what: str
    value: float
    bound: float
    at_least: bool

    @property
    def passed(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{'PASS' if self.passed else 'MISS'}  {self.what:<78} {self.value:8.2f}  ({sign} {self.bound:g})"


def overhead_ms(costs: Costs) -> float:
    """What a ranking costs beside the model itself."""
    return costs["service"] - costs["raw"]


def grown(before: Costs, after: Costs) -> float:
    """By what the overhead has grown, each time against the empty route of the same moment."""
    return (overhead_ms(after) / after["empty"]) / (overhead_ms(before) / before["empty"])


def of_service(model: str, table: Mapping[tuple[int, int], Costs]) -> list[Verdict]:
    """`table`: (candidates, behaviours) -> CPU milliseconds per request by contender."""
    found = []
    for candidates, bound in ((20, 2.5), (200, 4.0)):
        for (c, length), costs in table.items():
            if c == candidates:
                what = f"{model}: (service - raw ONNX Runtime) / empty route, C={c} L={length}"
                found.append(Verdict(what, overhead_ms(costs) / costs["empty"], bound, at_least=False))
    lengths = sorted({length for _, length in table})
    for length in lengths:
        counts = sorted(c for c, n in table if n == length and c >= 20)
        if len(counts) > 1:
            low = counts[0]
            high = counts[-1]
            grown = (overhead_ms(table[high, length]) - overhead_ms(table[low, length])) / (high - low) * 1000
            found.append(
                Verdict(
                    f"{model}: microseconds of overhead per candidate, C={low} to {high}, L={length}",
                    grown,
                    3.0,
                    at_least=False,
                )
            )
    return found


def of_peer(model: str, table: Mapping[tuple[int, int], Costs]) -> list[Verdict]:
    return [
        Verdict(
            f"{model}: plain FastAPI peer / service, C={c} L={length}",
            costs["peer"] / costs["service"],
            4.0,
            at_least=True,
        )
        for (c, length), costs in table.items()
        if "peer" in costs and c == 200
    ]


def of_graphs(model: str, compared: Sequence[Compared], attention: bool) -> list[Verdict]:
    found = []
    for c in compared:
        size = f"C={c.candidates} L={c.behaviours}"
        if c.candidates == 1:
            found.append(Verdict(f"{model}: graph / naive export, {size}", 1 / c.ratio, 1.3, at_least=False))
        elif c.candidates == 200 and (c.behaviours or not attention):
            found.append(
                Verdict(f"{model}: naive export / graph, {size}", c.ratio, 3.0 if attention else 1.5, at_least=True)
            )
        elif c.candidates == 200:
            found.append(
                Verdict(
                    f"{model}: naive export / graph, {size} (no history: the trunk alone)", c.ratio, 1.5, at_least=True
                )
            )
    return found
