"""Adds up the metrics of several workers. A family is one metric with its samples, as in Prometheus' text format."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

OverWorkers = Literal["sum", "max"]
# By the family's name: `type`, `help`, `over_workers`, and `samples`, a list of `[name, labels, value]`. The record of
# a worker stores this as JSON.
Families = dict[str, dict[str, Any]]


def families_of(registry: CollectorRegistry, gauges: Mapping[str, OverWorkers]) -> Families:
    """Return the present families of a registry; `gauges` says how each gauge is combined over all workers."""
    return {
        family.name: {
            "type": family.type,
            "help": family.documentation,
            "over_workers": gauges.get(family.name, "sum"),
            "samples": [[sample.name, _written(sample.labels), sample.value] for sample in family.samples],
        }
        for family in registry.collect()
    }


def _written(labels: Mapping[str, str]) -> dict[str, str]:
    """Leave out an empty line: without several lines, the series are those of a service without lines."""
    return {name: value for name, value in labels.items() if name != "line" or value}


def without_gauges(families: Families) -> Families:
    """Keep the metrics of an ended worker that still count: counters and histograms."""
    return {name: family for name, family in families.items() if family["type"] != "gauge"}


def combined(parts: Iterable[Families]) -> Families:
    """Combine sets of families: counters and histograms are added; of gauges, the sum or the largest is taken."""
    families: Families = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for part in parts:
        for name, family in part.items():
            families.setdefault(name, family)
            of_family = values.setdefault(name, {})
            for sample, labels, value in family["samples"]:
                key = (sample, tuple(sorted(labels.items())))
                before = of_family.get(key)
                if before is None:
                    of_family[key] = value
                elif family["over_workers"] == "max":
                    of_family[key] = max(before, value)
                else:
                    of_family[key] = before + value
    return {
        name: family | {"samples": [[sample, dict(labels), value] for (sample, labels), value in values[name].items()]}
        for name, family in families.items()
    }


class _Page(Collector):
    """Passes families to the writer of the Prometheus library."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for name, family in self._families.items():
            metric = Metric(name, family["help"], family["type"])
            for sample, labels, value in family["samples"]:
                metric.add_sample(sample, labels, value)
            yield metric


def page_of(families: Families) -> bytes:
    """Return the families in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Page(families))
    return generate_latest(registry)
