"""The warnings of a run: figures too good to be true, unused experts, features that drift, faults of the tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.metrics.outputs import SUSPICIOUS_AUC
from models.training.diagnostics.features import DRIFTED
from models.training.evaluation import most_alike

# Thresholds of warnings: a gate's entropy below the first, two experts' cosine above the second, a share below the
# third.
POLARISED = 0.05
ALIKE = 0.98
UNUSED_SHARE = 0.01
# Relative to the cross entropy of class shares: the least gain of a class preference.
LEARNT_SHARE = 0.01
LARGE_NORM = 100  # of vectors, whose numbers the model reads as they are
OUTWEIGHS = 100  # how many times a value's loss may be the largest other loss


def run_warnings(metrics: Mapping[str, Any]) -> list[str]:
    """Collect the warnings of a run from the content of metrics.json."""
    return [
        *_of_outputs(metrics["parts"]),
        *_of_calibration(metrics["calibration"]),
        *_of_experts(metrics["gates"]),
        *gate_warnings(metrics["gate_health"]),
        *feature_warnings(metrics["features"]),
        *_of_tables(metrics["data"]),
    ]


def _of_outputs(parts: Mapping[str, Any]) -> Iterator[str]:
    for part in ("validation", "test"):
        for name, output in parts[part]["outputs"].items():
            if why := output.get("why"):
                yield f"{name}: the {part} part has no figures for it: {why}"
            if (output.get("auc") or 0) > SUSPICIOUS_AUC:
                yield (
                    f"{name}: {part} AUC {output['auc']:.4f} is above {SUSPICIOUS_AUC}; make sure that no feature "
                    "holds the label"
                )
            if _learns_nothing(output):
                yield (
                    f"{name}: its cross entropy on {part}, {output['log_loss']:.4f}, is about that of the classes' "
                    f"shares alone, {output['share_log_loss']:.4f}: it has learned next to nothing about the user"
                )


def loss_warnings(outputs: Mapping[str, Any], weights: Mapping[str, float]) -> Iterator[str]:
    """Warn of a value whose loss outweighs every other one, from the metrics of the training part and `loss_weights`.

    The loss of a value is its squared error: in seconds or currencies it is thousands of times a log loss, and the
    layers that outputs share then serve the value alone.
    """
    losses = {}
    for name, output in outputs.items():
        loss = output.get("log_loss") if output.get("rmse") is None else output["rmse"] ** 2
        if loss is not None:
            losses[name] = weights.get(name, 1.0) * loss
    for name, loss in losses.items():
        others = {other: losses[other] for other in losses if other != name}
        if outputs[name].get("rmse") is None or not others:
            continue
        largest = max(others, key=others.__getitem__)
        if loss > OUTWEIGHS * others[largest]:
            advice = f"log1p(...) of its label, or training.loss_weights: {{{name}: {others[largest] / loss:.1g}}}"
            yield (
                f"{name}: its squared error on train, {loss:,.0f}, outweighs every other loss ({largest} "
                f"{others[largest]:.2f}), and the other outputs may learn nothing; use {advice}"
            )


def _of_calibration(calibration: Mapping[str, Any] | None) -> Iterator[str]:
    if not calibration:
        return
    for name, factor in calibration["factors"].items():
        if why := factor.get("skipped"):
            yield (
                f"{name}: it is not calibrated, the validation part has {why} ({factor['positives']:,} positives of "
                f"{factor['impressions']:,}); its scores stay as trained. Give validation more of them, or train longer"
            )


def _learns_nothing(output: Mapping[str, Any]) -> bool:
    """Return whether a class preference is hardly better than a prediction from the frequency of each class."""
    shares = output.get("share_log_loss")
    return shares is not None and output["log_loss"] > (1 - LEARNT_SHARE) * shares


def _of_experts(gates: Mapping[str, Sequence[float]]) -> Iterator[str]:
    for head, shares in gates.items():
        for expert, share in enumerate(shares):
            if len(shares) > 1 and share < UNUSED_SHARE:
                yield f"gate of {head}: expert {expert + 1} gets {share:.2%} of the weight, so it is hardly used"


def gate_warnings(health: Mapping[str, Any]) -> Iterator[str]:
    """Warnings about collapsed gates and experts, from `gate_health`."""
    if not health:
        return
    for head, share in health["entropy"].items():
        if share < POLARISED:
            yield (
                f"gate of {head}: its entropy is {share:.3f} of the largest, it has polarised on one expert; "
                "expert_dropout works against that"
            )
    cosine, one, other = most_alike(health["similarity"])
    if cosine > ALIKE:
        yield f"experts {other + 1} and {one + 1} give nearly the same output (cosine {cosine:.3f}); they work as one"


def feature_warnings(features: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warn of features that drift, that have no value, or whose numbers are large, from what `feature_health` gives."""
    drifted = [f"{f['group']}.{f['feature']} {f['psi']['test']:.2f}" for f in features if f["psi"]["test"] > DRIFTED]
    if drifted:
        yield f"features whose values in test are unlike those in train (PSI above {DRIFTED}): {', '.join(drifted)}"
    empty = [f"{f['group']}.{f['feature']}" for f in features if f["coverage"]["train"] == 0]
    if empty:
        yield f"features without a single value in train: {', '.join(empty)}"
    large = [f"{f['group']}.{f['feature']} {f['norm']:.3g}" for f in features if (f.get("norm") or 0) > LARGE_NORM]
    if large:
        yield (
            f"vectors whose median length in train is above {LARGE_NORM}: {', '.join(large)}; the model reads their "
            "numbers as they are and may learn nothing from them; scale them, to length 1 say"
        )


def _of_tables(described: Mapping[str, Any]) -> Iterator[str]:
    yield from described["unmatched"]
    yield from _of_context(described.get("context_variation"))  # None: encoded before this was counted
    if described["impressions"]["repeated"]:
        repeated = described["impressions"]["repeated"]
        yield f"{repeated:,} impressions repeat another one's user, item and time; all of them count"
    for role in ("users", "items"):
        rows = described[role]
        if rows["without_row"] and role not in described["without_table"] and rows["rows"] > 1:
            yield f"{rows['without_row']:,} {role} have no row in their table and got the default row"
        if rows["repeated"]:
            yield f"{rows['repeated']:,} rows of {role} repeat an id; the last one counted"


def _of_context(variation: Mapping[str, Any] | None) -> Iterator[str]:
    """Warn about context that differs among the candidates of a request, which /rank cannot accept."""
    if not variation:
        return
    groups = "requests" if variation["by_request"] else "groups of one user and one time_ms"
    for name, share in variation["shares"].items():
        yield (
            f"context.{name} varies among the impressions of {share:.2%} of the {groups}; /rank takes one context per "
            "request, so the value belongs to the candidate: declare it under features.item or features.candidate "
            "(docs/your-own-data.md, Features)"
        )
