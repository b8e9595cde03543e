"""Checks an answer of a soak: a ranking must follow from its own predictions and from the profile that it names."""

import math
from collections.abc import Mapping
from typing import Any

# The soak's own formula, so that its value can be computed here without the service's parser.
FORMULA = "pctr ** a * log1p(100 * pctr)"
TOLERANCE = 1e-5


def fault_in(
    body: Mapping[str, Any], request: Mapping[str, Any], profiles: Mapping[int, Mapping[str, Any]], versions: set[str]
) -> str | None:
    """Return the fault of an answer, None if it is right.

    `profiles` has the default profile of every revision that was live.
    """
    ranking = body["ranking"]
    fusion = body["fusion"]
    model = body["model"]
    # The shape of the answer: a known version, every candidate, finite scores in order.
    if f"{model['name']}/{model['version']}" not in versions:
        return f"a version that was never rolled out: {model}"
    if sorted(e["item_id"] for e in ranking) != sorted(request["candidates"]):
        return "the ranked items are not the candidates"
    scores = [e["score"] for e in ranking]
    if any(s is None or not math.isfinite(s) for s in scores):
        return "a score is missing"
    if scores != sorted(scores, reverse=True):
        return "scores do not descend"
    # The scores must follow from the answer's own predictions and the profile of its revision.
    profile = profiles.get(fusion["revision"])
    if profile is None:
        return f"fusion revision {fusion['revision']} was never live"
    for entry in ranking:
        expected = score_of(profile, entry["predictions"])
        if not math.isclose(entry["score"], expected, rel_tol=TOLERANCE, abs_tol=1e-9):
            return (
                f"score {entry['score']} but revision {fusion['revision']} gives {expected} of {entry['predictions']}"
            )
    return None


def score_of(profile: Mapping[str, Any], predictions: Mapping[str, float]) -> float:
    """The ranking score by one profile."""
    weights = profile["weights"]
    if profile["kind"] == "weighted_sum":
        return math.fsum(w * predictions[t] for t, w in weights.items())
    if profile["kind"] == "weighted_product":
        return math.exp(math.fsum(w * math.log(max(predictions[t], 1e-38)) for t, w in weights.items()))
    if profile["kind"] != "formula" or profile["formula"] != FORMULA:
        raise ValueError(f"a profile that the soak did not write: {profile}")
    return float(predictions["pctr"] ** weights["a"] * math.log1p(100 * predictions["pctr"]))


def growth(samples: list[float]) -> float:
    """The factor by which a quantity grew.

    It is the median of the last quarter of the values, divided by that of the second; the first quarter is the warm-up.
    """
    quarter = len(samples) // 4
    if quarter < 1:
        return 1.0
    early = sorted(samples[quarter : 2 * quarter])
    late = sorted(samples[-quarter:])
    return late[len(late) // 2] / max(early[len(early) // 2], 1e-9)
