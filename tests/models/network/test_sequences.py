"""Tests several sequences of one user: which behaviours each reads, in training and in the graph; and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from paper_checks import assert_graph_equals_torch
from small_rankers import action_keys, raw_inputs, score, small, training_batch

from models.encoders.base import Keys
from models.errors import RecipeError
from models.network.embedding.shortening import shortened
from models.network.sequences import rows_of_actions

CLICKS = {"actions": ["click"], "length": 4, "encoders": [{"type": "din", "hidden": [4]}]}
CARTS = {"actions": ["cart"], "length": 6, "encoders": [{"type": "dupn", "hidden": 4, "user_hidden": 3}]}
BUYS = {"actions": ["buy", "cart"], "length": 3, "encoders": [{"type": "pooling"}, {"type": "sim", "hidden": [4]}]}
EVERY = {"clicks": CLICKS, "carts": CARTS, "buys": BUYS}


def ranker(encoders=(), sequences=EVERY, **options):
    return small("sim", encoders=list(encoders), sequences=sequences, **options)  # "sim": few keys, so that some match


def newest(actions, taken, length):
    """The places of the newest behaviours with one of some actions, of a sequence whose newest comes first."""
    return [place for place, action in enumerate(actions) if action in taken][:length]


def view_of(model, batch):
    read = model.ranker.inputs.reading(batch)
    groups = {name: model.ranker.inputs.group(name, batch, read) for name in model.ranker.inputs.groups}
    return model.ranker.inputs.view(batch, groups, read)


def test_each_encoder_reads_the_newest_behaviours_of_its_own_actions():
    """Each impression by itself, its sequences cut by hand; `cart` is in two of them, and one user has no behaviour."""
    model = ranker()
    batch = training_batch(model, 30, 40)
    batch["behaviour_rows"][3] = 0
    view = view_of(model, batch)
    rows = dict(zip(["buy", "cart", "click"], _rows(model), strict=True))
    actions = batch["behaviour_rows"][..., -2].tolist()
    lengths = set()
    with torch.no_grad():
        for name, sequence in EVERY.items():
            readers = [encoder for encoder in model.ranker.encoders if encoder.name == name]
            assert len(readers) == len(sequence["encoders"])
            taken = [rows[action] for action in sequence["actions"]]
            for i in range(30):
                places = torch.tensor(newest(actions[i], taken, sequence["length"]), dtype=torch.int64)
                lengths.add((name, len(places)))
                alone = view._replace(
                    behaviours=view.behaviours[i : i + 1, places],
                    mask=torch.ones(1, len(places), dtype=torch.bool),
                    target=view.target[i : i + 1],
                    user=view.user[i : i + 1],
                    context=view.context[i : i + 1],
                    keys=Keys(view.keys.behaviours[i : i + 1, places], view.keys.target[i : i + 1]),
                )
                for reader in readers:
                    torch.testing.assert_close(reader(view)[i], reader.encoder(alone)[0], atol=1e-6, rtol=1e-5)
    assert lengths >= {(name, n) for name, s in EVERY.items() for n in (0, s["length"])}


def _rows(model):
    keys = np.array(action_keys(model.recipe))
    return model.encoding.vocabulary.rows_of_columns(keys[:, None], ("action",))[:, 0].tolist()


def test_clicks_push_no_purchase_out_and_clicks_behind_the_length_change_nothing():
    model = ranker(
        sequences={"clicks": CLICKS, "buys": {"actions": ["buy"], "length": 3, "encoders": BUYS["encoders"]}}
    )
    inputs = raw_inputs(model, 5, 50)
    bought, clicked = action_keys(model.recipe)
    inputs["behaviour_keys"][:, -2] = clicked
    inputs["behaviour_keys"][-1, -2] = bought
    scores = score(model, inputs)

    def changed(place):
        other = inputs["behaviour_keys"].copy()
        other[place, :-2] = model.encoding.vocabulary.keys[:5][: other.shape[1] - 2]
        return max(np.abs(v - scores[n]).max() for n, v in score(model, inputs | {"behaviour_keys": other}).items())

    assert changed(49) > 1e-4 and changed(3) > 1e-4
    assert changed(4) == changed(48) == 0.0


def test_an_action_that_training_did_not_know_is_in_no_sequence():
    model = ranker()
    inputs = raw_inputs(model, 5, 12)
    none = inputs | {name: values[:0] for name, values in inputs.items() if name.startswith("behaviour_")}
    for key in (12345, 0):
        strange = inputs["behaviour_keys"].copy()
        strange[:, -2] = key
        for name, values in score(model, inputs | {"behaviour_keys": strange}).items():
            np.testing.assert_allclose(values, score(model, none)[name], atol=1e-6)


def test_training_embeds_what_the_sequences_read_and_scores_the_same():
    model = ranker()
    batch = training_batch(model, 30, 60)
    cut = shortened(batch, model.ranker.inputs.keys, model.ranker.searching)
    assert 3 < cut["behaviour_rows"].shape[1] <= 4 + 6 + 3
    with torch.no_grad():
        scores = model.ranker(batch)
        model.ranker.searching = []
        for name, value in model.ranker(batch).items():
            torch.testing.assert_close(scores[name], value, atol=1e-6, rtol=1e-5)
        for i in range(8):  # one user: its rows have a leading axis of one, as in the graph
            one = {name: tensor[i : i + 1] for name, tensor in batch.items()}
            for name, value in model.ranker(one).items():
                torch.testing.assert_close(value, scores[name][i : i + 1], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_also_with_tables_read_sparsely():
    for embedding in ({"dim": 4}, {"dim": 4, "unknown_rate": 0.3}):
        model = ranker(embedding=embedding)
        model.ranker.inputs.table.sparse = "unknown_rate" in embedding
        sum(model.ranker.train().losses(training_batch(model, 600, 20)).values()).backward()
        for name, parameter in model.ranker.named_parameters():
            gradient = parameter.grad.to_dense()
            assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name


@pytest.mark.slow
def test_the_graph_equals_torch_at_any_length():
    """Every encoder over sequences, beside one of all behaviours: one export takes seconds."""
    bst = {"actions": ["click", "buy"], "length": 20, "encoders": [{"type": "bst", "width": 8, "feed_forward": 8}]}
    model = ranker([{"type": "pooling"}], EVERY | {"both": bst})
    sizes = ((1, 0), (1, 1), (7, 0), (7, 3), (20, 50))
    assert_graph_equals_torch(model, [raw_inputs(model, *size, seed=sum(size)) for size in sizes])
    assert model.ranker.composition["encoders"] == (
        "pooling, din(clicks), dupn(carts), pooling(buys), sim(buys), bst(both)"
    )


def test_the_encoder_of_the_architecture_is_left_out_beside_sequences():
    assert small("sim", encoders=None).ranker.composition["encoders"] == "sim"
    beside = small("sim", encoders=None, sequences={"clicks": CLICKS})
    assert beside.ranker.composition["encoders"] == "din(clicks)"


@pytest.mark.parametrize(
    ("sequence", "options", "message"),
    [
        ({"length": 51}, {}, r"model\.sequences\.clicks\.length: 51 is more than features\.behaviour\.max_length, 50"),
        ({"actions": []}, {}, r"model\.sequences\.clicks\.actions: .*at least 1"),
        ({"encoders": []}, {}, r"model\.sequences\.clicks\.encoders: .*at least 1"),
        ({"length": 0}, {}, r"model\.sequences\.clicks\.length: .*greater than or equal to 1"),
        ({"lenght": 4}, {}, r"model\.sequences\.clicks\.lenght: .*did you mean 'length'"),
        ({}, {"features": {"behaviour": None}}, r"model\.sequences: there are no behaviours.*features\.behaviour"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(sequence, options, message):
    with pytest.raises(RecipeError, match=message):
        ranker(sequences={"clicks": CLICKS | sequence}, **options)


def test_an_action_without_a_row_of_its_own_is_refused():
    model = ranker()
    with pytest.raises(ValueError, match="no behaviour of the training part, or fewer than min_count, .* 'purchase'"):
        rows_of_actions(["click", "purchase"], model.encoding, "action")
    hashed = replace(model.encoding, vocabulary=replace(model.encoding.vocabulary, buckets={"action": 8}))
    with pytest.raises(ValueError, match="hash_buckets, where several actions share a row"):
        rows_of_actions(["click"], hashed, "action")
