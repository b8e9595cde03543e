"""The bounds of the benchmark's figures, and the verdict on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.graphs import Compared

Costs = Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """A figure and its bound."""

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
    """The cost of a ranking without the model itself, in CPU milliseconds."""
    return costs["service"] - costs["raw"]


def grown(before: Costs, after: Costs) -> float:
    """The factor by which the overhead grew, each time relative to the empty route measured at the same time."""
    return (overhead_ms(after) / after["empty"]) / (overhead_ms(before) / before["empty"])


def of_service(model: str, table: Mapping[tuple[int, int], Costs]) -> list[Verdict]:
    """`table`: (candidates, behaviours) -> CPU milliseconds per request by contender."""
    verdicts = []
    for candidates, bound in ((20, 2.5), (200, 4.0)):
        for (c, length), costs in table.items():
            if c == candidates:
                title = f"{model}: (service - raw ONNX Runtime) / empty route, C={c} L={length}"
                verdicts.append(Verdict(title, overhead_ms(costs) / costs["empty"], bound, at_least=False))
    lengths = sorted({length for _, length in table})
    for length in lengths:
        counts = sorted(c for c, n in table if n == length and c >= 20)
        if len(counts) > 1:
            low = counts[0]
            high = counts[-1]
            grown = (overhead_ms(table[high, length]) - overhead_ms(table[low, length])) / (high - low) * 1000
            verdicts.append(
                Verdict(
                    f"{model}: microseconds of overhead per candidate, C={low} to {high}, L={length}",
                    grown,
                    3.0,
                    at_least=False,
                )
            )
    return verdicts


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
    verdicts = []
    for c in compared:
        size = f"C={c.candidates} L={c.behaviours}"
        if c.candidates == 1:
            verdicts.append(Verdict(f"{model}: graph / naive export, {size}", 1 / c.ratio, 1.3, at_least=False))
        elif c.candidates == 200 and (c.behaviours or not attention):
            verdicts.append(
                Verdict(f"{model}: naive export / graph, {size}", c.ratio, 3.0 if attention else 1.5, at_least=True)
            )
        elif c.candidates == 200:
            verdicts.append(
                Verdict(
                    f"{model}: naive export / graph, {size} (no history: the trunk alone)", c.ratio, 1.5, at_least=True
                )
            )
    return verdicts
