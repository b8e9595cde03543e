"""Tests user x item features against a float64 reference: counts, recencies, sequences, ranking features, the graph."""

import math

import numpy as np
import pytest
import torch
from paper_checks import assert_graph_equals_torch
from small_rankers import action_keys, raw_inputs, small, training_batch

from models.encoders.base import EncoderSpec, Keys, View
from models.encoders.matches import MatchesOptions
from models.errors import RecipeError

KNOWN = 3  # rows 0 to 2 are missing or unknown values
COLUMNS = {"tags": slice(0, 2), "shop": slice(2, 3), "item_id": slice(3, 4)}
MATCHES = {"type": "matches", "features": ["shop", "tag"]}
RANKED = {"type": "rank_weights", "name": "prank", "label": "click", "features": ["stars", "price"], "user_item": True}


def encoder(features=("tags", "shop")):
    spec = EncoderSpec(3, 2, key_columns=COLUMNS, first_known_row=KNOWN)
    return MatchesOptions(type="matches", features=features).build(spec)


def example(n=40, behaviours=9, users=None, seed=0):
    """Few values, so that many match; padding with the rows of real behaviours; some unknown times."""
    rng = np.random.default_rng(seed)
    users = n if users is None else users
    mask = np.arange(behaviours) < rng.integers(0, behaviours + 1, users)[:, None]
    mask[0] = True
    rows = rng.integers(0, KNOWN + 4, (users, behaviours, 4))
    age = np.where(rng.random((users, behaviours)) < 0.2, np.nan, rng.random((users, behaviours)) * 864_000)
    age[:, :1] = 0.0
    return mask, rows, age.astype(np.float32), rng.integers(0, KNOWN + 4, (n, 4))


def view(mask, rows, age, target_rows):
    mask, rows, age, target_rows = map(torch.from_numpy, (mask, rows, age, target_rows))
    empty = torch.zeros(len(mask), mask.shape[1], 5)
    return View(empty, mask, torch.zeros(len(target_rows), 3), keys=Keys(rows, target_rows), age_s=age)


def reference(mask, rows, age, target_rows, features=("tags", "shop")):
    """The numbers of one pair, behaviour by behaviour."""
    counts, recencies = [], []
    for name in features:
        values = {int(row) for row in target_rows[COLUMNS[name]] if row >= KNOWN}
        matching = [b for b in range(len(mask)) if mask[b] and values & set(rows[b][COLUMNS[name]].tolist())]
        counts.append(math.log(1 + len(matching)) / 4)
        days = [float(age[b]) / 86_400 for b in matching if not math.isnan(age[b])]
        recencies.append(max((1 / (1 + d) for d in days), default=0.0))
    return [*counts, *recencies]


def test_equals_counts_and_recencies_of_each_pair():
    inputs = example(40, 30)
    expected = np.array([reference(*(values[row] for values in inputs)) for row in range(40)])
    assert (expected == 0).any(0).all() and len(np.unique(expected[:, 1])) > 3
    assert (expected[:, 2:] == 1).any(), "a behaviour of this moment"
    np.testing.assert_allclose(encoder()(view(*inputs)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("behaviours", [0, 1, 9])
def test_one_user_for_all_candidates_equals_the_behaviours_repeated(behaviours):
    mask, rows, age, target_rows = example(7, behaviours, users=1)
    once = encoder()(view(mask, rows, age, target_rows))
    assert once.shape == (7, 4)
    torch.testing.assert_close(once, encoder()(view(*(a.repeat(7, 0) for a in (mask, rows, age)), target_rows)))


def test_behaviours_that_match_by_no_feature_are_not_read():
    mask, rows, age, target_rows = example()
    model = encoder()
    is_read = model.reads(Keys(torch.from_numpy(rows), torch.from_numpy(target_rows)), torch.from_numpy(mask)).numpy()
    assert 0 < is_read.sum() < mask.sum() and not (is_read & ~mask).any()
    expected = model(view(mask, rows, age, target_rows))
    torch.testing.assert_close(model(view(is_read, rows, age, target_rows)), expected)


def dupn(encoders=(MATCHES,), **options):
    """DUPN with a search over few keys; its ranking features have the user x item part."""
    sequences = {"buys": {"actions": ["buy"], "length": 5, "encoders": [MATCHES]}}
    own = {"type": "dupn", "hidden": 4, "user_hidden": 3}
    return small("dupn", tasks=[RANKED], encoders=[own, *encoders], sequences=sequences, **options)


def test_they_are_ranking_features_of_dupn_beside_the_items():
    """Of all behaviours, and of purchases alone: the representation weighs two item features and eight of the pair."""
    model = dupn()
    batch = training_batch(model, 60, 20)
    ranker = model.ranker
    with torch.no_grad():
        embedded = ranker.embedded(batch)
        parts = [encoder(embedded.view) for encoder in ranker.encoders]
        weights = ranker.of_representation["prank"].weight(parts[0]).double().numpy()
        scaled = ranker.inputs.candidates(batch).scaled.double().numpy()
        logits = ranker.logits(batch)["prank"].numpy()
    user_item = np.concatenate([part.double().numpy() for part in parts[1:]], 1)
    assert weights.shape == (60, 10) and (user_item[:, 4:] != user_item[:, :4]).any()
    features = np.concatenate([scaled[:, [1, 0]], user_item], 1)
    np.testing.assert_allclose(logits, (weights * features).sum(1), atol=1e-5)


def test_training_counts_as_the_graph_does():
    """Training embeds the matching behaviours alone, and a batch of one user is that of a request."""
    model = small("sim", encoders=[MATCHES])
    batch = training_batch(model, 30, 60)
    assert model.ranker.searching
    with torch.no_grad():
        scores = model.ranker(batch)
        for i in range(30):
            one = {name: tensor[i : i + 1] for name, tensor in batch.items()}
            for name, value in model.ranker(one).items():
                torch.testing.assert_close(value, scores[name][i : i + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_graph_equals_torch():
    """One export takes seconds."""
    model = dupn()
    requests = [raw_inputs(model, *size, seed=sum(size)) for size in ((1, 0), (1, 1), (7, 0), (20, 40))]
    keys = [*action_keys(model.recipe), *model.encoding.vocabulary.keys[:4]]
    for inputs in requests:  # few values, so that candidates have those of behaviours
        rng = np.random.default_rng(len(inputs["behaviour_keys"]))
        for name in ("item_keys", "behaviour_keys"):
            inputs[name] = rng.choice(keys, inputs[name].shape)
    assert_graph_equals_torch(model, requests)
    assert model.ranker.composition["encoders"] == "dupn, matches, matches(buys)"


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match=r"'matches': 'tag' is no item feature of the behaviours with keys.*'tags'\?"):
        encoder(("tag",))
    with pytest.raises(RecipeError, match=r"tasks: 'prank' has user_item, which needs an encoder 'matches'"):
        small("dupn", tasks=[RANKED])
