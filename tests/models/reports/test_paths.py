"""Tests the path report on a log small enough to count by hand."""

import csv
import math

import pandas as pd
import pytest

from funnelrank.main import main
from models.reports.paths import Columns, PathsError, decompositions, read_paths

# Ten clicked pairs. A cart follows 4 of them, of which 3 are bought. A wish follows 2 (one also carted), of which 1 is
# bought. 1 is bought directly.
LOG = [
    *(("u1", f"i{k}", "click", 10 * k) for k in range(10)),
    *(("u1", f"i{k}", "cart", 10 * k + 1) for k in range(4)),
    *(("u1", f"i{k}", "buy", 10 * k + 3) for k in range(3)),
    ("u1", "i3", "wish", 32),
    ("u1", "i4", "wish", 41),
    ("u1", "i4", "buy", 42),
    ("u1", "i5", "buy", 51),
    ("u1", "i5", "cart", 52),  # after the purchase: no path
    ("u1", "i6", "wish", 59),  # before the click: no path
    ("u2", "i0", "buy", 5),  # never clicked in the log
    ("u1", "i0", "click", 500),  # a second click changes nothing
]


@pytest.fixture
def log():
    return pd.DataFrame(LOG, columns=["user_id", "item_id", "action", "time_ms"]).sample(frac=1, random_state=0)


def test_the_rates_are_those_counted_by_hand(log):
    cart, wish, either = decompositions(read_paths(log, Columns(), "click", ["cart", "wish"], "buy"))
    assert (cart.actions, wish.actions, either.actions) == ("cart", "wish", "cart or wish")
    assert (cart.clicked, cart.acted, cart.converted, cart.converted_after_action) == (10, 4, 5, 3)
    assert cart.action_rate == pytest.approx(0.4)
    assert cart.conversion_after_action == pytest.approx(3 / 4)
    assert cart.conversion_without_action == pytest.approx(2 / 6)
    assert cart.coverage == pytest.approx(3 / 5)
    assert (wish.acted, wish.converted_after_action) == (2, 1)
    assert (either.acted, either.converted_after_action) == (5, 4)
    assert either.removed == 0, "the action is no more frequent than the conversion here"
    entropy = math.log(2)
    left = 0.5 * -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) * 2
    assert either.explained == pytest.approx(1 - left / entropy)


def test_sparsity_removed_is_what_the_sparser_of_the_two_steps_leaves():
    pairs = (
        [(k, "click", 0) for k in range(100)] + [(k, "cart", 1) for k in range(20)] + [(k, "buy", 2) for k in range(5)]
    )
    log = pd.DataFrame(
        [("u", item, action, at) for item, action, at in pairs], columns=["user_id", "item_id", "action", "time_ms"]
    )
    (cart,) = decompositions(read_paths(log, Columns(), "click", ["cart"], "buy"))
    assert (cart.action_rate, cart.conversion_after_action, cart.coverage) == (0.2, 0.25, 1.0)
    assert cart.removed == pytest.approx(1 - 0.05 / 0.2), "one in 20 becomes one in 5 and one in 4"


def test_routes_are_in_the_order_of_time_and_pairs_without_a_click_are_counted_apart(log):
    paths = read_paths(log, Columns(), "click", ["cart", "wish"], "buy")
    assert paths.routes.to_dict() == {
        "click": 4,
        "click > cart > buy": 3,
        "click > cart > wish": 1,
        "click > wish > buy": 1,
        "click > buy": 1,
    }
    assert paths.unclicked == 1


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_the_command_writes_a_table_and_a_picture_that_needs_nothing_from_outside(log, tmp_path, capsys, form):
    renamed = log.rename(columns={"user_id": "who", "action": "what"})
    source = tmp_path / f"log.{form}"
    renamed.to_csv(source, index=False) if form == "csv" else renamed.to_parquet(source)
    out = tmp_path / "out" / "paths"
    assert (
        main(
            [
                "paths",
                str(source),
                "--user",
                "who",
                "--action",
                "what",
                "--actions",
                "cart",
                "wish",
                "--conversion",
                "buy",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert "| cart | 40.00% | 50.00% | 75.00% | 33.33% | 60.0% |" in capsys.readouterr().out
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [row["actions"] for row in rows] == ["cart", "wish", "cart or wish"]
    assert "40.00%" in out.with_suffix(".md").read_text()
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") == 1 and "conversion / action 75.000%" in page
    assert "http" not in page and "<script" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--actions", "crt", "--conversion", "buy"],
            "'crt' does not occur in the column 'action'; it holds: buy, cart, click, wish",
        ),
        (["--user", "who", "--actions", "cart", "--conversion", "buy"], "--user: the log has no column 'who'"),
        (["--actions", *"abcdef", "--conversion", "buy"], "give at most 5"),
    ],
)
def test_a_log_that_cannot_answer_is_refused_with_what_is_there(log, tmp_path, capsys, arguments, message):
    log.to_parquet(tmp_path / "log.parquet")
    assert main(["paths", str(tmp_path / "log.parquet"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_events_are_compared_by_the_text_that_other_readers_make_of_them(log, tmp_path, capsys):
    """Ids and actions with a gap, as pandas writes them to CSV (`3.0`), and as integers in Parquet, give one report."""
    actions = {"click": 0, "cart": 1, "wish": 2, "buy": 3}
    numbered = log.assign(action=log["action"].map(actions), item_id=log["item_id"].str[1:].astype(int))
    gap = pd.DataFrame([("u3", None, None, None)], columns=list(log))
    numbered.to_parquet(tmp_path / "log.parquet")
    gapped = pd.concat([numbered, gap]).astype({"item_id": float, "action": float, "time_ms": float})
    gapped.to_csv(tmp_path / "log.csv", index=False)
    reports = []
    for form in ("parquet", "csv"):
        source = str(tmp_path / f"log.{form}")
        assert main(["paths", source, "--click", "0", "--actions", "1", "2", "--conversion", "3"]) == 0
        reports.append(capsys.readouterr().out)
    assert "3.0" in (tmp_path / "log.csv").read_text()
    left_out = "\n1 events without a user, item, action or time were left out.\n"
    assert left_out in reports[1]
    assert reports[1].replace(left_out, "").strip() == reports[0].strip()


def test_a_missing_file_is_said_to_be_missing(tmp_path, capsys):
    assert main(["paths", str(tmp_path / "none.parquet"), "--actions", "cart", "--conversion", "buy"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_an_unknown_name_is_an_error(log):
    with pytest.raises(PathsError):
        read_paths(log, Columns(), "klick", ["cart"], "buy")
