"""Tables of a report: metrics by output with their intervals, baselines, ablation, features by part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.kinds import PROBABILITY, reported_kind
from models.kinds.base import figure, measured
from models.reports.page import Sheet, sheet
from models.training.diagnostics.features import DRIFTED

COMPARED = (
    ("AUC", "auc"),
    ("GAUC", "gauc"),
    ("nDCG@5", "ndcg@5"),
    ("nDCG@10", "ndcg@10"),
    ("recall@10", "recall@10"),
    ("MRR", "mrr"),
    ("log loss", "log_loss"),
)


def extras(part: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Title and metrics of the scores that are evaluated on another label."""
    return [(f"{m['score']} measured against {m['label']}", m | {"space": "impression"}) for m in part["extra"]]


def metrics_sheets(part: Mapping[str, Any]) -> Iterator[Sheet]:
    """One table per task kind, with the kind's columns; extra evaluations are among the probabilities."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    rows = [reported_kind(m).report_row(name, m) for name, m in part["outputs"].items()]
    rows += [PROBABILITY.report_row(title, m) for title, m in extras(part)]
    for row in rows:
        tables.setdefault(tuple(row), []).append(list(row.values()))
    for head, cells in tables.items():
        titles = [f"{part['grouped_by']}s / skipped" if title == "users / skipped" else title for title in head]
        yield sheet(titles, cells, 1 + sum(title in ("label", "among") for title in head))


def top_sheets(part: Mapping[str, Any]) -> Iterator[Sheet]:
    """Recall, precision and F1 of the highest scores over all impressions."""
    scored = [(title, m) for title, m in (*part["outputs"].items(), *extras(part)) if m.get("top")]
    if not scored:
        return
    shares = [f"{top['share']:.1%}" for top in scored[0][1]["top"]]
    rows: list[list[Any]] = []
    for title, m in scored:
        cells = [f"{100 * t['recall']:.2f} / {100 * t['precision']:.2f} / {100 * t['f1']:.2f}" for t in m["top"]]
        rows.append([title, *cells])
    yield sheet(["recall / precision / F1 at the top, %", *shares], rows)


def training_sheets(metrics: Mapping[str, Any]) -> Iterator[Sheet]:
    """AUC and log loss on the training part, beside those on validation and test."""
    parts = metrics["parts"]
    rows: list[list[Any]] = []
    for name, m in parts["train"]["outputs"].items():
        if "auc" in m:
            others = [parts[part]["outputs"][name] for part in ("validation", "test")]
            rows.append(
                [name, *(figure(o["auc"]) for o in (m, *others)), *(figure(o["log_loss"]) for o in (m, *others))]
            )
    head = ["output", "training AUC", "validation", "test", "training log loss", "validation", "test"]
    if rows:
        yield sheet(head, rows)


def baseline_sheets(metrics: Mapping[str, Any]) -> Iterator[Sheet]:
    """The figures of the model and of the baselines, output by output."""
    measured_by = metrics["baselines"]
    if measured_by is None:
        return
    test = metrics["parts"]["test"]["outputs"]
    rows: list[list[Any]] = []
    errors: list[list[Any]] = []
    for name, own in test.items():
        models = [("this model", own), *((m["name"], m["outputs"].get(name)) for m in measured_by["models"])]
        for model, m in models:
            if m is not None and "auc" in m:
                rows.append([name, model, *(measured(m, key) for _, key in COMPARED), _gain(m)])
            elif m is not None and "rmse" in m:
                errors.append([name, model, measured(m, "rmse"), measured(m, "mae")])
    if rows:
        yield sheet(["output", "model", *(title for title, _ in COMPARED), "this model's gain in nDCG@10"], rows, 2)
    if errors:
        yield sheet(["value", "model", "RMSE", "MAE"], errors, 2)


def _gain(metrics: Mapping[str, Any]) -> str:
    gain = metrics.get("gain", {}).get("ndcg@10", {})
    if gain.get("low") is None:
        return "–"
    return f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"


def ablation_sheets(metrics: Mapping[str, Any]) -> Iterator[Sheet]:
    """The change of each output's figures when a group of features is exchanged between impressions."""
    measured_by = metrics["ablation"]
    if measured_by is None:
        return
    rows: list[list[Any]] = []
    for name, whole in measured_by["whole"].items():
        for group, outputs in measured_by["without"].items():
            differences = [
                _difference(outputs[name], whole, key) for key in ("auc", "gauc", "ndcg@10", "log_loss", "rmse")
            ]
            rows.append([name, group, *differences])
    yield sheet(["output", "group taken away", "AUC", "GAUC", "nDCG@10", "log loss", "RMSE"], rows, 2)


def _difference(without: Mapping[str, Any], whole: Mapping[str, Any], key: str) -> str:
    if without[key] is None or whole[key] is None:
        return "–"
    return f"{without[key] - whole[key]:+.4f}"


def feature_sheets(features: Sequence[Mapping[str, Any]]) -> Iterator[Sheet]:
    """Coverage and drift by feature, the largest drift first."""
    rows: list[list[Any]] = []
    for f in sorted(features, key=lambda f: -max(f["psi"].values())):
        coverage = [f"{f['coverage'][part]:.1%}" for part in ("train", "validation", "test")]
        known = "–" if f["known"] is None or f["known"]["test"] is None else f"{f['known']['test']:.1%}"
        drift = [f"{f['psi'][part]:.3f}" for part in ("validation", "test")]
        remark = "has drifted" if f["psi"]["test"] > DRIFTED else ""
        rows.append([f["group"], f["feature"], *coverage, known, *drift, remark])
    head = ["group", "feature", "with a value: train", "validation", "test", "known ids of test", "drift: validation"]
    if rows:
        yield sheet([*head, "test", ""], rows, 2)


def calibration_sheets(metrics: Mapping[str, Any]) -> Iterator[Sheet]:
    """ECE before and after calibration, and the map of each factor."""
    fitted = metrics["calibration"]
    if not fitted:
        return
    parts = metrics["parts"]
    rows: list[list[Any]] = []
    for name, before in fitted["ece_before"]["test"].items():
        of_validation = [fitted["ece_before"]["validation"][name], parts["validation"]["outputs"][name]["ece"]]
        of_test = [before, parts["test"]["outputs"][name]["ece"]]
        rows.append([name, *(figure(value) for value in (*of_validation, *of_test))])
    yield sheet(["ECE", "validation, before", "after", "test, before", "after"], rows)
    factors: list[list[Any]] = []
    for name, f in fitted["factors"].items():
        factors.append([name, f["label"], f["space"], f"{f['positives']:,} / {f['impressions']:,}", _map_of(f)])
    yield sheet(["factor", "label", "among", "positives / impressions", "its map in logits"], factors, 3)


def _map_of(factor: Mapping[str, Any]) -> str:
    if "slope" in factor:
        return f"{factor['slope']:.3f} x {factor['intercept']:+.3f}"
    if "knots" in factor:
        return f"{len(factor['knots'])} knots"
    return f"none: {factor['skipped']}" if "skipped" in factor else "none"
