"""The figures of a quality report as Prometheus gauges, a text file for node_exporter's textfile collector."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_FIGURES: Final = ("impressions", "open", "predicted", "observed", "copc", "ece", "log_loss", "auc", "gauc")


def exposition(document: Mapping[str, Any]) -> str:
    """The text format 0.0.4; a figure that is not known has no sample."""
    series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for cell in document["cells"]:
        labels = {name: cell[name] for name in ("version", "task", "scene", "arm")}
        for name in _FIGURES:
            if cell[name] is not None:
                series.setdefault(f"funnelrank_quality_{name}", []).append((labels, float(cell[name])))
    for alarm in document["alarms"]:
        if alarm["alarm"] is not None:
            series_labels = {"version": alarm["version"], "task": alarm["task"]}
            series.setdefault("funnelrank_quality_alarm", []).append((series_labels, float(alarm["alarm"])))
    for feature in document["drift"]:
        series_labels = {name: feature[name] for name in ("version", "group", "feature")}
        for name in ("psi", "missing", "unknown"):
            if feature[name] is not None:
                samples = series.setdefault(f"funnelrank_quality_feature_{name}", [])
                samples.append((series_labels, float(feature[name])))
    for rule in document["invariants"]:
        series.setdefault("funnelrank_quality_broken", []).append(({"rule": rule["rule"]}, float(rule["broken"])))
    series["funnelrank_quality_watermark_seconds"] = [({}, document["watermark_ms"] / 1000)]
    return "\n".join(_lines(series, document["model"])) + "\n"


def _lines(series: Mapping[str, list[tuple[Mapping[str, str], float]]], model: str) -> Iterator[str]:
    for name, samples in series.items():
        yield f"# TYPE {name} gauge"
        for labels, value in samples:
            text = ",".join(f'{key}="{_escaped(label)}"' for key, label in {"model": model, **labels}.items())
            yield f"{name}{{{text}}} {value:.9g}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
