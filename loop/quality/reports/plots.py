"""Draws the pictures of a quality report: curves over days, and rates by position."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl

from models.reports.plots import COLOURS, INK, LOOK, grid, svg_of

_PANELS: Final = (("copc", "observed / predicted"), ("auc", "AUC"), ("observed", "observed rate"))


def days(by_day: Sequence[Mapping[str, Any]], task: str) -> str:
    """COPC, AUC and observed rate of a task by day, a line per version with its intervals; empty without figures."""
    points = [day for day in by_day if day["task"] == task and day["observed"] is not None]
    if not points:
        return ""
    names = sorted({day["day"] for day in points})
    with mpl.rc_context(LOOK):
        figure, axes = grid(len(_PANELS), 2.7, 3)
        for axis, (name, title) in zip(axes, _PANELS, strict=True):
            for place, version in enumerate(sorted({day["version"] for day in points})):
                of_version = [day for day in points if day["version"] == version and day[name] is not None]
                colour = COLOURS[place % len(COLOURS)]
                x = [names.index(day["day"]) for day in of_version]
                axis.plot(x, [day[name] for day in of_version], color=colour, marker="o", markersize=4, label=version)
                bounded = [day for day in of_version if day["intervals"].get(name)]
                axis.vlines(
                    [names.index(day["day"]) for day in bounded],
                    [day["intervals"][name][0] for day in bounded],
                    [day["intervals"][name][1] for day in bounded],
                    color=colour,
                    linewidth=0.9,
                )
            if name == "copc":
                axis.axhline(1, color=INK, linewidth=0.8, linestyle="--")
                axis.legend(loc="best")
            axis.set_title(f"{task}: {title}", loc="left", color="#1b2430")
            shown = range(0, len(names), max(1, len(names) // 4))
            axis.set_xticks(list(shown), [names[i][5:] for i in shown])
        return svg_of(figure, f"{task} by day")


def positions(by_position: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """Observed rates by position, a panel per task and a line per version; dashed: what was predicted."""
    drawable = [task for task in tasks if any(point["task"] == task for point in by_position)]
    if not drawable:
        return ""
    with mpl.rc_context(LOOK):
        figure, axes = grid(len(drawable), 2.7, 3)
        for axis, task in zip(axes, drawable, strict=True):
            points = [point for point in by_position if point["task"] == task]
            for place, version in enumerate(sorted({point["version"] for point in points})):
                of_version = [point for point in points if point["version"] == version]
                colour = COLOURS[place % len(COLOURS)]
                x = [point["position"] for point in of_version]
                axis.plot(x, [p["observed"] for p in of_version], color=colour, marker="o", markersize=3, label=version)
                axis.plot(x, [p["predicted"] for p in of_version], color=colour, linewidth=0.9, linestyle="--")
            axis.set_title(task, loc="left", color="#1b2430")
            axis.set_xlabel("position")
            axis.set_ylim(bottom=0)
            axis.legend(loc="best")
        return svg_of(figure, "rates by position")
