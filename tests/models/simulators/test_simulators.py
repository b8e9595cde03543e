"""Tests the simulators: the truth is what the data are drawn from, and the claims that hold continue to hold."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.statistics import rank_correlation
from funnelrank.commands import data
from funnelrank.main import main
from models.recipe import load_recipe
from models.simulators import batch_norm, delay, funnel, position, selection, transfer, watch_time
from models.simulators.base import divergence, grouped_rank_correlation, scores_on_test, write_tables
from models.simulators.run import SIMULATORS, put_section, results, section

RECIPES = Path(__file__).parents[3] / "models" / "recipes"


def test_the_measures_by_hand():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    grouped = grouped_rank_correlation(np.array([1.0, 2, 5, 4]), np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1]))
    assert grouped == pytest.approx(0), "one request in order, one reversed"
    assert divergence(np.array([0.5]), np.array([0.5])) == pytest.approx(0)
    assert divergence(np.array([0.5]), np.array([0.25])) == pytest.approx(
        1000 * (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))
    )


@pytest.mark.parametrize("world", [selection.world, transfer.world])
def test_the_same_seed_makes_the_same_world_and_another_seed_another(world):
    (a, of_a), (b, of_b), (c, _) = (world(np.random.default_rng(seed), 500) for seed in (1, 1, 2))
    assert all(a[name].equals(b[name]) for name in a) and (of_a == of_b).all()
    assert not a["impressions"].equals(c["impressions"])


def test_conversions_follow_the_known_probability_among_clicks_and_clicks_are_no_fair_sample():
    tables, pcvr = selection.world(np.random.default_rng(1), 200_000)
    impressions = tables["impressions"]
    clicked = (impressions["click"] == 1).to_numpy()
    assert impressions["conversion"][clicked].mean() == pytest.approx(pcvr[clicked].mean(), abs=0.005)
    assert not impressions["conversion"][~clicked].any()
    assert pcvr[clicked].mean() > 1.5 * pcvr.mean()


def test_long_videos_are_watched_longer_and_shown_more_where_durations_confound():
    rng = np.random.default_rng(1)
    tables, expected = watch_time.world(rng, 100_000, confounding=1.0)
    shown = tables["impressions"]
    assert shown["watched"].mean() == pytest.approx(expected.mean(), rel=0.02)
    assert rank_correlation(shown["watched"].to_numpy(), expected) > 0.5
    duration = tables["items"]["duration"].to_numpy()[shown["item_id"]]
    in_test = (shown["part"] == "test").to_numpy()
    assert duration[~in_test].mean() > 1.5 * duration[in_test].mean()
    assert (shown["watched"] == 0).mean() == pytest.approx(0.1, abs=0.01)


def test_only_negatives_of_the_training_part_are_left_out():
    tables, shown = batch_norm.world(np.random.default_rng(1), 60_000, share=0.1)
    left = tables["impressions"].groupby("part")["click"].agg(["size", "sum"])
    all_of_them = shown.groupby("part")["click"].agg(["size", "sum"])
    assert (left.loc[["validation", "test"]] == all_of_them.loc[["validation", "test"]]).all(axis=None)
    assert left["sum"]["train"] == all_of_them["sum"]["train"]
    negatives = all_of_them["size"] - all_of_them["sum"]
    assert left["size"]["train"] - left["sum"]["train"] == pytest.approx(0.1 * negatives["train"], rel=0.1)


def test_purchases_follow_the_funnel_and_fall_with_the_shift():
    tables, truth = funnel.world(np.random.default_rng(1), 200_000, 0.0)
    impressions = tables["impressions"]
    clicked = (impressions["click"] == 1).to_numpy()
    assert impressions["purchase"].mean() == pytest.approx(truth["pctcvr"].mean(), rel=0.05)
    assert impressions["purchase"][clicked].mean() == pytest.approx(truth["pcvr"][clicked].mean(), rel=0.05)
    after_cart = impressions["purchase"][impressions["cart"] == 1].mean()
    after_other = impressions["purchase"][clicked & (impressions["cart"] == 0).to_numpy()].mean()
    assert after_cart > 10 * after_other
    rare, _ = funnel.world(np.random.default_rng(1), 200_000, np.log(1 / 10))
    assert rare["impressions"]["purchase"].mean() < 0.25 * impressions["purchase"].mean()


def test_every_request_shows_every_position_once_and_the_top_is_clicked_more_than_its_worth():
    tables, utility, request = position.world(np.random.default_rng(1), 5000, 0.0)
    impressions = tables["impressions"]
    assert (
        impressions.groupby(request)["position"].apply(sorted).map(tuple) == tuple(range(1, position.SHOWN + 1))
    ).all()
    top = impressions["position"] == 1
    bottom = impressions["position"] == position.SHOWN
    assert abs(utility[top].mean() - utility[bottom].mean()) < 0.1
    assert impressions["click"][top].mean() > 1.5 * impressions["click"][bottom].mean()


def test_esmm_beats_clicks_only_over_the_entire_space(tmp_path):
    result = selection.run(1, 0.25, tmp_path)
    assert all(comparison.margin(result) > 0 for comparison in selection.SIMULATOR.comparisons[:2])


@pytest.mark.slow
def test_esm2_beats_esmm_on_purchases(tmp_path):
    result = funnel.run(1, 0.5, tmp_path)
    claimed = [c for c in funnel.SIMULATOR.comparisons if c.measure == "pctcvr rank correlation"]
    assert np.mean([comparison.margin(result) for comparison in claimed]) > 0


def test_the_tower_learns_the_range_of_the_bias_from_random_positions(tmp_path):
    """Without a rate of its own, the tower learned 0.1 to 1.4 of a true range of 2.4."""
    learnt = position.learnt_bias(3, 1, tmp_path)
    truth = position.true_bias(np.arange(1, position.SHOWN + 1))
    phone, desktop = sorted(learnt, key=lambda line: line[-1])
    for line, expected in ((phone, truth), (desktop, position.DESKTOP * truth)):
        assert line @ expected / (expected @ expected) == pytest.approx(1, abs=0.15)
        assert line[-1] == pytest.approx(expected[-1], abs=0.35)


def test_the_towers_rate_does_not_depend_on_the_networks(tmp_path):
    """Beside a network that has learned next to nothing, the tower has the log odds by position and device."""
    learnt = position.learnt_bias(1, 1, tmp_path, learning_rate=0.0001, epochs=3, weight_decay=0.1)
    shown = pd.read_parquet(tmp_path / "impressions.parquet")
    shown = shown[shown.part == "train"]
    rate = shown.groupby(["device", "position"]).click.mean().unstack().to_numpy()
    odds = np.log(rate / (1 - rate))
    observed = sorted(odds - odds[:, :1], key=lambda line: line[-1])
    for line, expected in zip(sorted(learnt, key=lambda line: line[-1]), observed, strict=True):
        np.testing.assert_allclose(line, expected, atol=0.2)


@pytest.mark.slow
def test_the_tower_beats_no_correction_where_the_old_ranker_was_unlike_the_truth(tmp_path):
    result = position.run(2, 1.0, tmp_path)
    assert position.SIMULATOR.comparisons[0].margin(result) > 0.03


@pytest.mark.slow  # two trainings on the whole log
def test_a_tower_of_two_heads_brings_clicks_and_purchases_nearer_to_the_truth(tmp_path):
    """The recipe's own tower, against the same recipe without one, by the true utilities inside requests."""
    tables, utility, request = position.world(np.random.default_rng([3, 2]), position.REQUESTS, 0.0)
    impressions, of_purchase = position.with_purchases(2, tables["impressions"])
    write_tables(tmp_path, tables | {"impressions": impressions})
    recipe = load_recipe(RECIPES / "simulated-position-purchase.yaml")
    raw = recipe.model_dump(mode="json")
    test = (impressions["part"] == "test").to_numpy()
    nearer = {}
    for name, tower in (("with", raw["position"]), ("without", None)):
        scores = scores_on_test(raw | {"name": name, "position": tower}, tmp_path, 2)
        nearer[name] = [
            grouped_rank_correlation(scores[output], truth[test], request[test])
            for output, truth in (("pctr", utility), ("pcvr", of_purchase))
        ]
    gain_of_clicks, gain_of_purchases = np.subtract(nearer["with"], nearer["without"])
    assert gain_of_clicks > 0.04 and gain_of_purchases > 0.01, nearer


def test_delays_hide_conversions_of_those_who_convert_most():
    _, impressions = delay.world(np.random.default_rng(1), 60_000, dependent=True)
    during = impressions[impressions.day.between(0, delay.DAYS)]
    assert during.bought.mean() == pytest.approx(during.truth.mean(), rel=0.03)
    naive, wait, both = (
        delay.tables_of(model, impressions, impressions.head(0))
        for model in ("naive", "wait", "closed windows and early conversions")
    )
    assert naive.conversion.mean() < 0.9 * during.truth.mean()
    assert wait.conversion.mean() == pytest.approx(wait.truth.mean(), rel=0.06)
    assert both.conversion.mean() > 1.2 * both.truth.mean()
    hidden = during[during.bought & (during.delay > delay.DAYS - during.day)]
    assert hidden.truth.mean() > during.truth.mean()


def test_the_stream_has_each_impression_once_and_its_late_conversion_again():
    _, impressions = delay.world(np.random.default_rng(2), 20_000, dependent=False)
    stream = delay.tables_of("fake_negatives", impressions, impressions.head(0))
    late = stream[stream.late == 1]
    assert (late.conversion == 1).all() and (late.delay > delay.OBSERVED).all()
    seen = stream[stream.late == 0]
    assert seen.groupby(["user_id", "item_id", "day"]).size().max() == 1
    assert len(late) == pytest.approx((seen.bought & (seen.delay > delay.OBSERVED)).sum(), rel=0.1)


@pytest.mark.slow
def test_every_correction_of_delays_has_a_smaller_bias_than_none(tmp_path):
    result = delay.run(1, 0.25, tmp_path)
    claimed = [c for c in delay.SIMULATOR.comparisons if c.other == "naive" and c.measure == "size of the bias"]
    assert all(comparison.margin(result) > 0 for comparison in claimed)


def test_the_command_offers_every_simulator():
    assert list(SIMULATORS) == data.SIMULATORS


def test_the_command_prints_a_table_and_keeps_it_in_a_page(tmp_path, capsys):
    page = tmp_path / "docs" / "simulators.md"
    assert main(["simulate", "selection", "--seeds", "1", "--size", "0.05", "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "| ESMM better than clicks only |" in printed and "of 1 seed" in printed
    assert printed.strip() in page.read_text()
    put_section(page, "position", "## position\n\nfigures\n")
    put_section(page, "selection", "## selection\n\nother figures\n")
    text = page.read_text()
    assert text.index("other figures") < text.index("## position") and text.count("## selection") == 1


def test_a_claim_that_fails_is_said_to_fail(tmp_path):
    simulator = SIMULATORS["selection"]
    row = {"rank correlation, all impressions": 0.5, "divergence, all impressions": 1.0, selection.BIAS: 0.4}
    better = {"rank correlation, all impressions": 0.6, "divergence, all impressions": 0.5, selection.BIAS: 0.2}
    text = section(simulator, [{("", m): row if m == "ESMM" else better for m in selection.MODELS}], 1, 1.0)
    assert text.count("does not show") == 4
    assert results(simulator, [], 1) == []


def test_the_position_simulator_writes_its_log_and_one_without_a_log_is_refused(tmp_path, capsys):
    assert main(["simulate", "position", "--size", "0.01", "--tables", str(tmp_path / "log")]) == 0
    shown = pd.read_parquet(tmp_path / "log" / "impressions.parquet")
    assert sorted(shown["position"].unique()) == list(range(1, position.SHOWN + 1)) and set(shown["click"]) == {0, 1}
    assert main(["simulate", "selection", "--tables", str(tmp_path / "none")]) == 1
    assert "'selection' has no log to train on; those with one: position" in capsys.readouterr().err
