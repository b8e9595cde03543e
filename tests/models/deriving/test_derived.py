"""Tests each derivation against numpy in float64 and Python integers, and torch against ONNX Runtime bit for bit."""

import warnings
from datetime import UTC, datetime, timedelta

import numpy as np
import onnxruntime as ort
import pytest
import torch

from features import FeatureSchema, key_of
from models.data.deriving.derive import derive

NUMBERS = np.array([0.0, -0.0, 1.0, -1.5, 3.0, 1e-40, 3.4e38, -3.4e38, 19_000.25, np.nan], np.float32)
EXTREME_KEYS = [0, 1, -1, 2**63 - 1, -(2**63), 2**62, -(2**62) - 1, 0x5555_5555_5555_5555]
TIMES = [1_651_334_400_000, 1_651_334_399_999, 951_782_400_000, 100_000_000_000, 253_402_300_799_999, 0]

SHOWN = {
    "name": "shown",
    "statistic": "count",
    "by": "item",
    "actions": ["impression"],
    "window_s": 3600,
    "bucket_s": 60,
}


def schema(*derived):
    return FeatureSchema.model_validate(
        {
            "user": [{"name": "city", "type": "categorical"}, {"name": "budget", "type": "numeric"}],
            "item": [
                {"name": "brand", "type": "categorical"},
                {"name": "tags", "type": "multi_categorical", "max_values": 3},
                {"name": "price", "type": "numeric"},
                {"name": "stock", "type": "numeric"},
            ],
            "context": [{"name": "tab", "type": "categorical"}],
            "candidate": [{"name": "price_now", "type": "numeric"}],
            "counters": [SHOWN],
            "derived": derived,
        }
    )


def inputs(time=TIMES[0], seed=0, candidates=100):
    """Every pair of the numbers, and random and extreme keys."""
    rng = np.random.default_rng(seed)
    pairs = np.stack(np.meshgrid(NUMBERS, NUMBERS), -1).reshape(-1, 2)[:candidates]
    keys = rng.integers(-(2**63), 2**63 - 1, (candidates, 4))
    extreme = rng.random(keys.shape) < 0.5
    keys[extreme] = rng.choice(np.array(EXTREME_KEYS), int(extreme.sum()))
    return {
        "user_keys": rng.integers(-(2**63), 2**63 - 1, (1, 1)),
        "user_numerics": np.array([[20.0]], np.float32),
        "item_keys": keys,
        "item_numerics": np.ascontiguousarray(pairs),
        "context_keys": np.array([[key_of("tab", 2)]]),
        "candidate_numerics": pairs[::-1, :1].copy(),
        "counter_numerics": pairs[:, 1:] * np.float32(0.5),
        "request_time": np.array([time]),
    }


class Graph(torch.nn.Module):
    def __init__(self, schema):
        super().__init__()
        self.schema = schema

    def forward(self, inputs):
        return derive(self.schema, inputs)


def torch_of(schema, given):
    """The derived rows by torch, by name."""
    return {name: value.numpy() for name, value in derive(schema, tensors(given)).items()}


def tensors(given):
    return {name: torch.from_numpy(values) for name, values in given.items()}


def numbers(derived, given):
    return torch_of(schema(derived), given)["derived_numerics"][:, 0]


def keys(derived, given):
    return torch_of(schema(derived), given)["derived_keys"]


def test_a_ratio_is_the_quotient_and_missing_without_one():
    given = inputs()
    price, stock = given["item_numerics"].astype(np.float64).T
    with np.errstate(all="ignore"):
        expected = np.where(stock == 0, np.nan, price / stock)
    limit = np.finfo(np.float32).max
    ratio = numbers({"name": "r", "type": "ratio", "of": "price", "per": "stock"}, given)
    np.testing.assert_allclose(ratio, np.clip(expected, -limit, limit), rtol=1e-7, atol=1e-45)
    assert np.isnan(ratio).sum() == 19 + 18  # one of ten numbers is missing, and two of ten are zeros


def test_a_difference_reads_the_user_and_the_candidate():
    given = inputs()
    expected = 20.0 - given["candidate_numerics"][:, 0].astype(np.float64)
    difference = numbers({"name": "d", "type": "difference", "of": "budget", "minus": "price_now"}, given)
    np.testing.assert_allclose(difference, expected, rtol=1e-7)
    assert np.isnan(difference).sum() == 10


def test_a_difference_beyond_float32_is_its_largest_number():
    given = inputs()
    largest = float(np.finfo(np.float32).max)
    given["item_numerics"][:] = np.array([[3.4e38, -3.4e38]], np.float32)
    assert set(numbers({"name": "d", "type": "difference", "of": "price", "minus": "stock"}, given)) == {largest}


@pytest.mark.parametrize(("unit", "seconds"), [("ms", 0.001), ("s", 1), ("min", 60), ("h", 3600), ("d", 86400)])
def test_the_time_since_a_number_is_in_seconds(unit, seconds):
    given = inputs()
    expected = TIMES[0] / 1000 - given["item_numerics"][:, 0].astype(np.float64) * seconds
    limit = float(np.finfo(np.float32).max)
    since = numbers({"name": "t", "type": "time_since", "of": "price", "unit": unit}, given)
    np.testing.assert_allclose(since, np.clip(expected, -limit, limit), rtol=1e-7)
    assert np.isnan(since).sum() == 10
    given["request_time"][:] = 0
    assert np.isnan(numbers({"name": "t", "type": "time_since", "of": "price", "unit": unit}, given)).all()


def test_a_list_has_as_many_values_as_it_has_keys_and_no_length_if_empty():
    given = inputs()
    expected = (given["item_keys"][:, 1:] != 0).sum(1).astype(np.float32)
    expected[expected == 0] = np.nan
    np.testing.assert_array_equal(numbers({"name": "l", "type": "length", "of": "tags"}, given), expected)
    assert set(np.unique(expected[~np.isnan(expected)])) == {1, 2, 3}


def test_a_bucket_has_the_key_of_the_number_of_edges_below():
    given = inputs()
    edges = [-1.5, 0, 3]
    price = given["item_numerics"][:, 0]
    expected = [0 if np.isnan(p) else key_of("b", sum(float(p) >= edge for edge in edges)) for p in price]
    got = keys({"name": "b", "type": "bucket", "of": "price", "edges": edges}, given)
    assert got[:, 0].tolist() == expected
    assert len(set(expected)) == 5


@pytest.mark.parametrize("time", TIMES[:-1])
@pytest.mark.parametrize("offset", [0, -840, 840, 330, -1])
def test_hour_and_weekday_are_those_of_the_calendar(time, offset):
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=min(time, TIMES[4] - 86_400_000), minutes=offset)
    given = inputs(min(time, TIMES[4] - 86_400_000), candidates=3)
    derived = [{"name": name, "type": name, "utc_offset_min": offset} for name in ("hour", "weekday")]
    got = torch_of(schema(*derived), given)["derived_keys"].tolist()
    assert got == [[key_of("hour", local.hour), key_of("weekday", local.weekday())]] * 3


def wrapped(value):
    return (value + 2**63) % 2**64 - 2**63


@pytest.mark.parametrize("seed", range(3))
def test_a_cross_is_a_sum_of_products_modulo_2_to_the_64(seed):
    given = inputs(seed=seed)
    brand, *tags = given["item_keys"].T.tolist()
    (city,), (tab,) = given["user_keys"][0].tolist(), given["context_keys"][0].tolist()
    multipliers = [key_of("c", str(place)) | 1 for place in range(3)]
    expected = [
        0 if 0 in (city, key, tab) else wrapped(city * multipliers[0] + key * multipliers[1] + tab * multipliers[2])
        for key in brand
    ]
    of_three = {"name": "c", "type": "cross", "of": ["city", "brand", "tab"]}
    assert keys(of_three, given)[:, 0].tolist() == expected
    # The same with a list: each of its values is combined, and a missing one stays missing.
    multipliers = multipliers[:2]
    listed = keys({"name": "c", "type": "cross", "of": ["tags", "brand"]}, given)
    assert listed.T.tolist() == [
        [
            0 if 0 in pair else wrapped(pair[0] * multipliers[0] + pair[1] * multipliers[1])
            for pair in zip(of, brand, strict=True)
        ]
        for of in tags
    ]


def test_numpy_gives_the_same_cross():
    given = inputs(candidates=100)
    first, second = np.array([key_of("c", str(place)) | 1 for place in range(2)])
    brand = given["item_keys"][:, 0]
    expected = given["user_keys"][0, 0:1] * first + brand * second
    cross = keys({"name": "c", "type": "cross", "of": ["city", "brand"]}, given)[:, 0]
    np.testing.assert_array_equal(cross, np.where(brand == 0, 0, expected))


def test_different_pairs_have_different_crosses():
    given = inputs()
    pairs = [(key_of("city", i), key_of("brand", j)) for i in range(10) for j in range(1000)]
    got = set()
    for city in dict.fromkeys(city for city, _ in pairs):
        of_city = [brand for other, brand in pairs if other == city]
        given = given | {
            "user_keys": np.array([[city]]),
            "item_keys": np.array([[brand, 0, 0, 0] for brand in of_city]),
            "item_numerics": np.zeros((len(of_city), 2), np.float32),
        }
        got |= set(keys({"name": "c", "type": "cross", "of": ["city", "brand"]}, given)[:, 0].tolist())
    assert len(got) == len(pairs)


CHAIN = (
    {"name": "discount", "type": "difference", "of": "price", "minus": "price_now"},
    {"name": "share", "type": "ratio", "of": "discount", "per": "price"},
    {"name": "step", "type": "bucket", "of": "share", "edges": [0, 0.5]},
    {"name": "hour", "type": "hour"},
    {"name": "hour_step", "type": "cross", "of": ["hour", "step"]},
    {"name": "hour_tags", "type": "cross", "of": ["hour", "tags"]},
    {"name": "many", "type": "length", "of": "hour_tags"},
)


def test_derived_features_read_those_before_them():
    made = schema(*CHAIN)
    given = inputs()
    got = torch_of(made, given)
    assert got["derived_keys"].shape == (100, 1 + 1 + 1 + 3)
    price = given["item_numerics"][:, 0]
    now = given["candidate_numerics"][:, 0]
    usual = (np.abs(price) < 1e30) & (np.abs(now) < 1e30) & (np.abs(price) > 0.1)
    np.testing.assert_array_equal(got["derived_numerics"][usual, 1], ((price - now)[usual] / price[usual]))
    kinds = {feature.name: feature.type for feature in made.derived_features}
    assert kinds["hour_step"] == "categorical" and kinds["hour_tags"] == "multi_categorical"


def test_a_request_has_one_row_of_the_user_and_a_table_one_per_impression():
    given = inputs()
    as_table = given | {name: np.repeat(values, 100, 0) for name, values in given.items() if len(values) == 1}
    of_request = torch_of(schema(*EVERY), given)
    for name, values in torch_of(schema(*EVERY), as_table).items():
        np.testing.assert_array_equal(values, of_request[name])


EVERY = (
    *CHAIN,
    {"name": "shown_share", "type": "ratio", "of": "shown", "per": "stock"},
    {"name": "of_user", "type": "difference", "of": "budget", "minus": "price_now"},
    *({"name": f"since_{u}", "type": "time_since", "of": "price", "unit": u} for u in ("ms", "s", "min", "h", "d")),
    {"name": "tags_length", "type": "length", "of": "tags"},
    {"name": "weekday", "type": "weekday", "utc_offset_min": -840},
    {"name": "pair", "type": "cross", "of": ["city", "brand"]},
    {"name": "triple", "type": "cross", "of": ["city", "brand", "tab"]},
    {"name": "listed", "type": "cross", "of": ["brand", "tags"]},
    {"name": "again", "type": "cross", "of": ["pair", "tab", "hour", "listed"]},
)


@pytest.fixture(scope="module")
def session():
    """ONNX Runtime with the graph of every derivation."""
    made = schema(*EVERY)
    given = tensors(inputs(candidates=7))
    rows = {
        name: {0: torch.export.Dim.DYNAMIC} for name in given if name.startswith(("item_", "candidate_", "counter_"))
    }
    with warnings.catch_warnings():  # what the exporter warns about is its own workings
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Graph(made).eval(),
            kwargs={"inputs": given},
            dynamo=True,
            dynamic_shapes={"inputs": {name: rows.get(name, {}) for name in given}},
            input_names=list(given),
            output_names=list(torch_of(made, inputs())),
            verbose=False,
        )
    return ort.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("candidates", [1, 2, 100])
@pytest.mark.parametrize("time", TIMES)
def test_the_graph_gives_the_bits_of_torch(session, time, candidates):
    """Random and extreme keys, every pair of the numbers, times to the bounds and an unknown one."""
    for seed in range(10):
        given = inputs(time, seed, candidates)
        expected = torch_of(schema(*EVERY), given)
        for name, values in zip(expected, session.run(list(expected), given), strict=True):
            assert values.dtype == expected[name].dtype
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
