"""Reports a reduction: lines for the terminal, and a section in the bundle's report."""

from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment

from service.bundle.manifest import Reduction

_TEMPLATE = Path(__file__).with_name("reduction.html")
_END = b"</main>"
_INDENT = " " * 12


def lines(reduction: Reduction) -> Iterator[str]:
    """Return lines for the terminal: the decrease of the AUC, and the time and bytes saved."""
    yield (
        f"{reduction.precision:<11} against float32, {reduction.impressions:,} impressions of the {reduction.part} "
        f"part, each among {reduction.candidates} candidates"
    )
    for name, output in reduction.outputs.items():
        largest = f"largest score difference {output.max_abs_difference:.1e} at most"
        if output.loss is None:
            yield f"{_INDENT}{name:<12} has no label that varies there; {largest}"
        else:
            change = f"{output.measure} {output.float32:.5f} -> {output.reduced:.5f}, loss {output.loss:+.5f}"
            mean = f"{output.mean_abs_difference:.1e} in the mean"
            yield f"{_INDENT}{name:<12} {change} (allowed {reduction.max_loss:g}); {largest}, {mean}"
    ratio = reduction.cpu_ms / reduction.float32_cpu_ms
    yield (
        f"{_INDENT}{reduction.float32_cpu_ms:.3f} -> {reduction.cpu_ms:.3f} ms of CPU ({ratio:.2f}) at "
        f"{reduction.speed_candidates} candidates and {reduction.speed_behaviours} behaviours; "
        f"{reduction.float32_bytes / 2**20:.2f} -> {reduction.graph_bytes / 2**20:.2f} MiB"
    )
    if ratio >= 1 and reduction.graph_bytes >= reduction.float32_bytes:
        yield f"{_INDENT}neither faster nor smaller: float32 is the better choice for this model"


def with_reduction(report: bytes, reduction: Reduction) -> bytes:
    """Append a section about the reduction to a report."""
    first, *rest = (line.strip() for line in lines(reduction))
    template = Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE.read_text())
    summary = [first, *rest[len(reduction.outputs) :]]
    section = template.render(reduction=reduction, summary=summary, number=_number).encode()
    before, end, after = report.rpartition(_END)
    return before + section + end + after if end else report + section


def _number(value: float | None, form: str = ".5f") -> str:
    return "–" if value is None else format(value, form)
