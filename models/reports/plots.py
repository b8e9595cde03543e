"""Draws the pictures of a training report, each an inline SVG that loads nothing else."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = ("#2563a8", "#d1701f", "#2f8f5b", "#8a4fb0", "#b8365a", "#5b6b7a", "#a08a1f", "#1d8a99")
INK = "#5c6b7d"
LINE = "#dfe5ec"
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelrank",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
}


def grid(count: int, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    columns = min(columns, max(1, count))
    rows = -(-count // columns)
    figure = Figure(figsize=(10.6, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        axis.grid(True)
    return figure, axes


def svg_of(figure: Figure, title: str) -> str:
    text = io.StringIO()
    figure.savefig(
        text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def losses(history: Mapping[str, Any], best_step: int) -> str:
    """One panel per trained output: the training loss, and on validation the log loss of the same output."""
    points = history["losses"]
    evaluations = history["evaluations"]
    names = list(points[0]["losses"]) if points else []
    if not names:
        return ""
    with mpl.rc_context(LOOK):
        figure, axes = grid(len(names), 2.7, 3)
        for axis, name, colour in zip(axes, names, _cycle(len(names)), strict=True):
            axis.plot(
                [p["step"] for p in points],
                [p["losses"][name] for p in points],
                color=colour,
                linewidth=1,
                alpha=0.55,
                label="training",
            )
            # An output without impressions in validation has no log loss there.
            scored = [
                (e["step"], e["validation"][name]["log_loss"])
                for e in evaluations
                if e["validation"][name].get("log_loss") is not None
            ]
            if scored:
                steps, values = zip(*scored, strict=True)
                axis.plot(steps, values, color=colour, marker="o", markersize=4, linewidth=1.6, label="validation")
            axis.axvline(best_step, color=INK, linewidth=0.8, linestyle=":")
            axis.set_title(name, loc="left", color="#1b2430")
            axis.set_xlabel("step")
            axis.legend(loc="upper right")
        return svg_of(figure, "losses by step")


def weighting(history: Mapping[str, Any]) -> str:
    """Plot the figures of the loss weighting over training, one line each; empty if there are none."""
    points = [p for p in history["losses"] if p["weighting"]]
    if not points:
        return ""
    names = list(points[0]["weighting"])
    with mpl.rc_context(LOOK):
        figure, (axis,) = grid(1, 2.5, 1)
        for name, colour in zip(names, _cycle(len(names)), strict=True):
            axis.plot(
                [p["step"] for p in points],
                [p["weighting"][name] for p in points],
                color=colour,
                linewidth=1.4,
                label=name,
            )
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper left", ncols=4)
        return svg_of(figure, "loss weighting by step")


def validation(history: Mapping[str, Any], best_step: int) -> str:
    """Validation AUC of every output by step; the dotted line marks the selected weights."""
    evaluations = history["evaluations"]
    names = [n for n, m in evaluations[0]["validation"].items() if m.get("auc") is not None] if evaluations else []
    if not names:
        return ""
    with mpl.rc_context(LOOK):
        figure, axes = grid(len(names), 2.5, 4)
        for axis, name, colour in zip(axes, names, _cycle(len(names)), strict=True):
            axis.plot(
                [e["step"] for e in evaluations],
                [e["validation"][name]["auc"] for e in evaluations],
                color=colour,
                marker="o",
                markersize=4,
            )
            axis.axvline(best_step, color=INK, linewidth=0.8, linestyle=":")
            axis.set_title(name, loc="left", color="#1b2430")
            axis.set_xlabel("step")
            axis.ticklabel_format(axis="y", useOffset=False)
        return svg_of(figure, "validation AUC by step")


def calibration(outputs: Mapping[str, Any]) -> str:
    """One panel per probability: mean prediction against the share of positives in groups of equal mass."""
    curves = {name: m["calibration"] for name, m in outputs.items() if m.get("calibration")}
    if not curves:
        return ""
    with mpl.rc_context(LOOK):
        figure, axes = grid(len(curves), 2.9, 4)
        for axis, (name, curve), colour in zip(axes, curves.items(), _cycle(len(curves)), strict=True):
            shown = [(p, o) for p, o, _ in curve if p > 0 and o > 0]
            if shown:
                predicted, observed = zip(*shown, strict=True)
                low = min(*predicted, *observed) * 0.8
                high = max(*predicted, *observed) * 1.25
                axis.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle="--")
                axis.loglog(predicted, observed, color=colour, marker="o", markersize=4, linewidth=1)
                axis.set_xlim(low, high)
                axis.set_ylim(low, high)
                _plain_ticks(axis, subs=(1, 3) if high / low < 30 else (1,))
            axis.set_title(f"{name}  ECE {outputs[name]['ece']:.4f}", loc="left", color="#1b2430")
            axis.set_xlabel("mean prediction")
            axis.set_ylabel("share of positives")
        return svg_of(figure, "calibration by output")


def _plain_ticks(axis: Axes, subs: tuple[int, ...]) -> None:
    """Set few round numbers on logarithmic axes, without exponents."""
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(LogLocator(subs=subs, numticks=6))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())


def position(curve: Mapping[str, Any]) -> str:
    """The position tower's shift of the logit by position, a line per cross value; dashed: the constant at serving."""
    with mpl.rc_context(LOOK):
        figure, (axis,) = grid(1, 2.7, 1)
        lines = curve["curve"]
        for i, (line, colour) in enumerate(zip(lines, _cycle(len(lines)), strict=True)):
            label = f"{curve['cross'] or 'all'} {i + 1}, {line['share']:.0%} of impressions"
            axis.plot(curve["positions"], line["shift"], color=colour, marker="o", markersize=4, label=label)
        axis.axhline(curve["constant"], color=INK, linewidth=0.9, linestyle="--")
        axis.set_xlabel(curve["column"])
        axis.set_ylabel("shift of the logit")
        axis.legend(loc="upper right")
        return svg_of(figure, "position bias")


def gates(utilisation: Mapping[str, Sequence[float]], history: Mapping[str, Any]) -> str:
    """A row per head: bars of the mean gate weight by expert at the end, and the weights by step."""
    with mpl.rc_context(LOOK):
        figure, axes = grid(2 * len(utilisation) + 2, 1.9, 2)
        for i, (head, shares) in enumerate(utilisation.items()):
            bars = axes[2 * i]
            lines = axes[2 * i + 1]
            colours = _cycle(len(shares))
            bars.bar([str(e + 1) for e in range(len(shares))], shares, color=colours, width=0.65)
            bars.axhline(1 / len(shares), color=INK, linewidth=0.8, linestyle="--")
            bars.set_title(head, loc="left", color="#1b2430")
            bars.set_xlabel("expert")
            seen = [e for e in history["evaluations"] if head in e["gates"]]
            for expert, colour in enumerate(colours):
                lines.plot(
                    [e["step"] for e in seen],
                    [e["gates"][head][expert] for e in seen],
                    color=colour,
                    marker="o",
                    markersize=3,
                )
            lines.set_xlabel("step")
            lines.set_ylim(bottom=0)
        _health(axes[-2], axes[-1], [e for e in history["evaluations"] if e["gate_health"]])
        return svg_of(figure, "gate utilisation")


def _health(entropies: Axes, cosines: Axes, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Entropy of each head's gate, and the mean and the largest cosine between experts, by step."""
    steps = [e["step"] for e in evaluations]
    heads = list(evaluations[-1]["gate_health"]["entropy"]) if evaluations else []
    for head, colour in zip(heads, _cycle(len(heads)), strict=True):
        values = [e["gate_health"]["entropy"][head] for e in evaluations]
        entropies.plot(steps, values, color=colour, marker="o", markersize=3, label=head)
    pairs = [_pairs(e["gate_health"]["similarity"]) for e in evaluations]
    if pairs and pairs[0]:
        cosines.plot(
            steps, [max(p) for p in pairs], color=COLOURS[4], marker="o", markersize=3, label="most similar pair"
        )
        cosines.plot(steps, [sum(p) / len(p) for p in pairs], color=INK, marker="o", markersize=3, label="mean")
        cosines.legend(loc="lower right")
    entropies.set_title("entropy of the gates, 1 = equal weights", loc="left", color="#1b2430")
    cosines.set_title("cosine between experts, 1 = the same", loc="left", color="#1b2430")
    entropies.set_ylim(0, 1.05)
    cosines.set_ylim(top=1.05)
    for axis in (entropies, cosines):
        axis.set_xlabel("step")
    if heads:
        entropies.legend(loc="lower left", ncols=3)


def _pairs(cosines: Sequence[Sequence[float]]) -> list[float]:
    return [cosines[i][j] for i in range(len(cosines)) for j in range(i)]


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
