"""Places the nodes of a graph without cycles in layers, so that every arrow leads down (Sugiyama et al., 1981).

An arrow over several layers gets a bend in each layer between its ends. Bends take part in the ordering like nodes, so
that the arrow passes beside the boxes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

Arrow = tuple[str, str]
Way = tuple[str, ...]  # the names of an arrow's two ends, with its bends between them
_SWEEPS = 12


@dataclass(frozen=True)
class Layout:
    """The names in each layer from left to right, the centre of each name from the left, and the way of each arrow."""

    layers: Sequence[Sequence[str]]
    centres: Mapping[str, float]
    ways: Mapping[Arrow, Way]


def placed(arrows: Iterable[Arrow], widths: Mapping[str, float], gap: float) -> Layout:
    """Place the ends of the arrows; `widths` has the width of each, and a bend has none.

    Raises graphlib.CycleError if the arrows have a cycle.
    """
    ordered = sorted(set(arrows))
    depths = _depths(ordered)
    ways = {arrow: _way(arrow, depths) for arrow in ordered}
    neighbours: dict[str, tuple[set[str], set[str]]] = {name: (set(), set()) for name in depths}
    for way in ways.values():
        for place, (upper, lower) in enumerate(zip(way, way[1:], strict=False)):
            neighbours.setdefault(upper, (set(), set()))[1].add(lower)
            neighbours.setdefault(lower, (set(), set()))[0].add(upper)
            depths.setdefault(lower, depths[way[0]] + place + 1)
    layers: list[list[str]] = [[] for _ in range(max(depths.values()) + 1)]
    for name in sorted(depths):
        layers[depths[name]].append(name)
    _order(layers, neighbours)
    return Layout(layers, _centres(layers, neighbours, widths, gap), ways)


def _depths(arrows: Sequence[Arrow]) -> dict[str, int]:
    """The layer of each node: one below the lowest node that leads to it."""
    sources: dict[str, set[str]] = {}
    for source, target in arrows:
        sources.setdefault(target, set()).add(source)
    depths: dict[str, int] = {}
    for name in TopologicalSorter(sources).static_order():
        depths[name] = 1 + max((depths[source] for source in sources.get(name, ())), default=-1)
    return depths


def _way(arrow: Arrow, depths: Mapping[str, int]) -> Way:
    source, target = arrow
    bends = (f"{source} > {target} {depth}" for depth in range(depths[source] + 1, depths[target]))
    return (source, *bends, target)


def _order(layers: list[list[str]], neighbours: Mapping[str, tuple[set[str], set[str]]]) -> None:
    """Sort each layer by the mean places of the neighbours above, then below, and again, to avoid crossings."""
    for sweep in range(_SWEEPS):
        upwards = sweep % 2
        for names in reversed(layers) if upwards else layers:
            places = {name: place / len(layer) for layer in layers for place, name in enumerate(layer)}
            # A name without neighbours stays where it is.
            means = {
                name: _mean([places[other] for other in neighbours[name][upwards]], places[name]) for name in names
            }
            names.sort(key=lambda name: (means[name], name))


def _centres(
    layers: Sequence[Sequence[str]],
    neighbours: Mapping[str, tuple[set[str], set[str]]],
    widths: Mapping[str, float],
    gap: float,
) -> dict[str, float]:
    """The centre of each name: as near to its neighbours as the order and the widths of its layer permit."""
    centres = {name: float(place) for layer in layers for place, name in enumerate(layer)}
    for sweep in range(2 * _SWEEPS):
        for names in layers if sweep % 2 else reversed(layers):
            wishes = [_mean([centres[other] for side in neighbours[name] for other in side], 0.0) for name in names]
            room = [0.0]
            for left, right in zip(names, names[1:], strict=False):
                room.append(room[-1] + (widths.get(left, 0.0) + widths.get(right, 0.0)) / 2 + gap)
            apart = _increasing([wish - offset for wish, offset in zip(wishes, room, strict=True)])
            centres |= {name: place + offset for name, place, offset in zip(names, apart, room, strict=True)}
    leftmost = min(centres[name] - widths.get(name, 0.0) / 2 for name in centres)
    return {name: centre - leftmost for name, centre in centres.items()}


def _increasing(values: Sequence[float]) -> list[float]:
    """The numbers nearest to `values` that never fall (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean = value
        count = 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean = (mean * count + before * size) / (count + size)
            count += size
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
