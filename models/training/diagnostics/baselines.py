"""Simple models on the recipe's own columns to compare a network with: popularity, linear, boosted trees, shown order.

They are untuned and read no behaviour sequence; they are fitted on the training part and measured on the test part.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from models.data.cache import Data, labels_of
from models.metrics.outputs import of_probability, of_value
from models.metrics.paired import PairedMetric, paired_difference
from models.network.model import MultiTaskModel
from models.structures.base import Output
from models.training.diagnostics.columns import LinearInputs, TreeInputs, feature_columns
from models.training.diagnostics.sampling import drawn
from models.training.evaluation import groups_of, scores_of

MOST_ROWS = 300_000
# The metrics of an output, by its kind.
ORDER = "order"
VALUE = "RMSE"
PRIOR_IMPRESSIONS = 10.0  # of an item, at the mean of all items
ORDER_ONLY = ("auc", "gauc", "ndcg@5", "ndcg@10", "mrr")
GAINS: tuple[PairedMetric, ...] = ("auc", "gauc", "ndcg@10")
# (metrics of an output, training labels, whether each counts) -> a probability or value per test impression.
Fit = Callable[[str, np.ndarray, np.ndarray], np.ndarray]


def baselines(model: MultiTaskModel, data: Data, seed: int) -> dict[str, Any]:
    """`{"rows": training impressions read, "models": [{"name", "seconds", "outputs": {output: metrics}}]}`.

    `gain` among the metrics is what the network is better by on the test part, with a paired bootstrap over users.
    """
    picked = drawn(len(data.parts["train"]), MOST_ROWS, seed)
    outputs = [o for o in model.outputs if o.kind.judged_by in (ORDER, VALUE) and len(o.score_names) == 1]
    fits: dict[str, Fit] = {"item popularity": partial(_popularity, data, picked)}
    # Without the user's columns a model knows no user's level, and all that it learns is an order of items.
    item_groups = ("item", "context", "candidate")
    for addition, groups in (("", ("user", "derived", *item_groups)), (" without user columns", item_groups)):
        if addition and not data.encoding.schema.user:
            continue
        train = feature_columns(data, "train", picked, groups)
        test = feature_columns(data, "test", np.arange(len(data.parts["test"])), groups)
        linear = LinearInputs(train)
        trees = TreeInputs(train)
        of_trees = partial(_trees, trees.matrix(train), trees.matrix(test), trees.categorical, seed)
        fits[f"logistic regression{addition}"] = partial(_linear, linear.matrix(train), linear.matrix(test))
        fits[f"boosted trees{addition}"] = of_trees
    model_scores = scores_of(model, data, "test")
    measured_models = []
    for name, fit in fits.items():
        started = time.perf_counter()
        measured = {o.name: _measured(data, o, fit, picked, model_scores) for o in outputs}
        measured_models.append({"name": name, "seconds": time.perf_counter() - started, "outputs": measured})
    return {"rows": len(picked), "models": [*measured_models, *_shown_order(data, outputs)]}


def _measured(
    data: Data, output: Output, fit: Fit, picked: np.ndarray, own: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The test metrics of one baseline for one output; `own` are the network's scores `[n]`."""
    inside = labels_of(data, "train", output.space)[picked] > 0
    label = labels_of(data, "train", output.label)[picked]
    space = labels_of(data, "test", output.space) > 0
    of_test = labels_of(data, "test", output.label)[space]
    if not inside.any() or (output.kind.judged_by == ORDER and len(np.unique(label[inside])) < 2):
        return {"impressions": int(space.sum()), "why": "the training part has one class only"}
    scores = fit(output.kind.judged_by, label, inside)[space]
    if output.kind.judged_by == VALUE:
        return of_value(of_test, scores)
    p = np.clip(scores, 1e-7, 1 - 1e-7)
    groups = groups_of(data, "test")[space]
    users = np.asarray(data.parts["test"].user)[space]
    of_network = np.exp(own[output.score_names[0]][space])
    gains = {metric: paired_difference(of_test, p, of_network, users, groups, metric) for metric in GAINS}
    gain = {metric: {"value": d.gain, "low": d.low, "high": d.high} for metric, d in gains.items()}
    return of_probability(of_test, np.log(p), groups) | {"gain": gain}


def _popularity(data: Data, picked: np.ndarray, judged_by: str, label: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The item's mean label in training, shrunk towards the overall mean by PRIOR_IMPRESSIONS."""
    items = data.parts["train"].item[picked][inside]
    n = len(data.item_rows)
    total = np.bincount(items, weights=label[inside], minlength=n)
    count = np.bincount(items, minlength=n)
    mean = (total + PRIOR_IMPRESSIONS * label[inside].mean()) / (count + PRIOR_IMPRESSIONS)
    return np.asarray(mean[data.parts["test"].item])


def _linear(train: Any, test: Any, judged_by: str, label: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Logistic regression, or ridge regression for a value."""
    rows = train[np.flatnonzero(inside)]
    if judged_by == VALUE:
        return np.asarray(Ridge().fit(rows, label[inside]).predict(test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge to the last digit
        fitted = LogisticRegression(max_iter=200).fit(rows, label[inside])
    return np.asarray(fitted.predict_proba(test)[:, 1])


def _trees(
    train: np.ndarray,
    test: np.ndarray,
    categorical: np.ndarray,
    seed: int,
    judged_by: str,
    label: np.ndarray,
    inside: np.ndarray,
) -> np.ndarray:
    """Histogram gradient boosting with scikit-learn's defaults."""
    options = {"categorical_features": categorical, "random_state": seed}
    if judged_by == VALUE:
        return np.asarray(HistGradientBoostingRegressor(**options).fit(train[inside], label[inside]).predict(test))
    fitted = HistGradientBoostingClassifier(**options).fit(train[inside], label[inside])
    return np.asarray(fitted.predict_proba(test)[:, 1])


def _shown_order(data: Data, outputs: list[Output]) -> Iterator[dict[str, Any]]:
    """Metrics of the order in which the log's ranker showed the impressions, if the recipe names the position."""
    position = data.parts["test"].position
    if position is None:
        return
    last = position.max(initial=0) + 1
    places = np.where(position > 0, position, last) / (last + 1.0)  # between 0 and 1, as a probability
    measured = {}
    for output in outputs:
        if output.kind.judged_by == ORDER:
            space = labels_of(data, "test", output.space) > 0
            label = labels_of(data, "test", output.label)[space]
            every = of_probability(label, -places[space], groups_of(data, "test")[space])
            measured[output.name] = {name: every[name] for name in ("impressions", *ORDER_ONLY)}
    yield {"name": "shown order", "seconds": 0.0, "outputs": measured}
