"""Plain models whose settings are searched on the validation part, with the same number of trials each."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from models.data.cache import Data, labels_of
from models.metrics.outputs import of_probability
from models.network.model import MultiTaskModel
from models.structures.base import Output
from models.training.diagnostics.columns import LinearInputs, TreeInputs, feature_columns
from models.training.evaluation import groups_of

TRIES = 12
SEARCH_SEED = 3
TREE_SETTINGS: Mapping[str, tuple[int, ...] | tuple[float, ...]] = {
    "learning_rate": (0.03, 0.06, 0.1),
    "max_iter": (60, 120, 200),
    "max_leaf_nodes": (6, 12, 31),
    "l2_regularization": (0.0, 1.0, 10.0),
    "min_samples_leaf": (20, 60),
    "max_features": (0.3, 1.0),
}
Settings = dict[str, Any]
# Settings, a seed, the training matrix and labels -> a fitted classifier.
Fit = Callable[[Settings, int, Any, np.ndarray], Any]


def tuned_models(model: MultiTaskModel, data: Data, seeds: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The name of each plain model and, per seed, its test metrics `{output: metrics}` with the chosen `settings`.

    Each output has its own model, whose settings have the best validation AUC with seed 1. Only these settings are
    measured on the test part.
    """
    columns = {part: feature_columns(data, part, np.arange(len(data.parts[part]))) for part in data.parts}
    linear = LinearInputs(columns["train"])
    trees = TreeInputs(columns["train"])
    outputs = [o for o in model.outputs if o.kind.judged_by == "order" and len(o.score_names) == 1]

    def fit_trees(settings: Settings, seed: int, matrix: Any, label: np.ndarray) -> Any:
        options = settings | {"categorical_features": trees.categorical, "random_state": seed}
        return HistGradientBoostingClassifier(**options).fit(matrix, label)

    # Search the settings on validation, then fit with each seed and measure on test.
    for name, fit, tries, inputs in (
        ("logistic regression", _fit_linear, linear_settings(), linear),
        ("boosted trees", fit_trees, tree_settings(), trees),
    ):
        matrices = {part: inputs.matrix(c) for part, c in columns.items()}
        searched = {o.name: _searched(data, o, fit, tries, matrices) for o in outputs}
        of_seeds = []
        for seed in range(1, seeds + 1):
            started = time.perf_counter()
            measured = {o.name: _measured(data, o, fit, searched[o.name], seed, matrices, "test") for o in outputs}
            of_seeds.append({"seconds": time.perf_counter() - started, "settings": searched, "outputs": measured})
        yield name, of_seeds


def linear_settings() -> list[Settings]:
    """Strengths of the L2 penalty, from strong to weak."""
    return [{"C": float(f"{c:.3g}")} for c in np.geomspace(0.001, 3, TRIES)]


def tree_settings() -> list[Settings]:
    """scikit-learn's defaults, then random settings drawn by a seed."""
    rng = np.random.default_rng(SEARCH_SEED)
    drawn = [{name: rng.choice(values).item() for name, values in TREE_SETTINGS.items()} for _ in range(TRIES - 1)]
    return [{}, *drawn]


def _fit_linear(settings: Settings, seed: int, matrix: Any, label: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge to the last digit
        return LogisticRegression(max_iter=300, **settings).fit(matrix, label)


def _searched(data: Data, output: Output, fit: Fit, tries: list[Settings], matrices: Mapping[str, Any]) -> Settings:
    """The settings with the best validation AUC."""
    return max(tries, key=lambda one: float(_measured(data, output, fit, one, 1, matrices, "validation")["auc"] or 0))


def _measured(
    data: Data, output: Output, fit: Fit, settings: Settings, seed: int, matrices: Mapping[str, Any], part: str
) -> dict[str, Any]:
    """The metrics of one output on a part, fitted on the training part."""
    inside = np.flatnonzero(labels_of(data, "train", output.space) > 0)
    fitted = fit(settings, seed, matrices["train"][inside], labels_of(data, "train", output.label)[inside])
    space = np.flatnonzero(labels_of(data, part, output.space) > 0)
    p = np.clip(fitted.predict_proba(matrices[part][space])[:, 1], 1e-7, 1 - 1e-7)
    label = labels_of(data, part, output.label)[space]
    named = {"label": " AND ".join(output.label), "space": " AND ".join(output.space) or "impression"}
    return {"kind": output.kind.reported_as} | named | of_probability(label, np.log(p), groups_of(data, part)[space])
