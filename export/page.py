"""Owns how a reduction is told: lines for the terminal, and a section in the bundle's report."""

from collections.abc import Iterator
from html import escape

from service.bundle.manifest import Reduction

_END = b"</main>"


def lines(found: Reduction) -> Iterator[str]:
    """What a reduced precision costs and saves."""
    judged = f"{found.impressions:,} impressions of the {found.part} part, each among {found.candidates} candidates"
    yield f"{found.precision:<11} against float32, {judged}"
    for name, output in found.outputs.items():
        if output.loss is None:
            yield f"            {name:<12} has no label that varies there; score difference {output.max_abs_difference:.1e} at most"
        else:
            change = f"{output.measure} {output.float32:.5f} -> {output.reduced:.5f}, loss {output.loss:+.5f} (allowed {found.max_loss:g})"
            differences = f"{output.max_abs_difference:.1e} at most, {output.mean_abs_difference:.1e} in the mean"
            yield f"            {name:<12} {change}; score difference {differences}"
    ratio = found.cpu_ms / found.float32_cpu_ms
    yield (
        f"            {found.float32_cpu_ms:.3f} -> {found.cpu_ms:.3f} ms of CPU ({ratio:.2f}) at {found.speed_candidates} candidates and "
        f"{found.speed_behaviours} behaviours; {found.float32_bytes / 2**20:.2f} -> {found.graph_bytes / 2**20:.2f} MiB"
    )
    if ratio >= 1 and found.graph_bytes >= found.float32_bytes:
        yield "            neither faster nor smaller: float32 is the better choice for this model"


def with_reduction(report: bytes, found: Reduction) -> bytes:
    """The report with a section on the reduction at its end."""
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{o.measure}<td>{_number(o.float32)}<td>{_number(o.reduced)}<td>{_number(o.loss, '+.5f')}"
        f"<td>{o.max_abs_difference:.1e}<td>{o.mean_abs_difference:.1e}</tr>"
        for name, o in found.outputs.items()
    )
    head = f"<tr><th>output<th>measure<th>float32<th>{found.precision}<th>loss<th>largest difference<th>mean difference</tr>"
    head_line, *told = lines(found)
    summary = "".join(f"<p>{escape(line.strip())}</p>" for line in (head_line, *told[len(found.outputs) :]))
    section = f"<section><h2>Reduced precision</h2><div class=scroll><table>{head}{rows}</table></div>{summary}</section>".encode()
    before, end, after = report.rpartition(_END)
    return before + section + end + after if end else report + section


def _number(value: float | None, form: str = ".5f") -> str:
    return "–" if value is None else format(value, form)
