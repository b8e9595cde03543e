"""Tests the plan: its sums by hand, what bounds it, and that every number of it is measured or a named assumption."""

import math
from dataclasses import fields, replace

import pytest

from funnelrank.main import main
from loadtest.capacity.figures import SHIPPED, Figures, RankingCost, read_figures
from loadtest.capacity.planning import Assumptions, Demand, assumed, lines_of, plan_of

DEMAND = Demand(users=1e6, items=10_000, qps=1000, candidates=200)


def test_a_small_plan_is_what_one_computes_by_hand(figures: Figures) -> None:
    """All items fit into the cache, so no row comes from Redis."""
    plan = plan_of(figures, DEMAND, Assumptions())
    assert plan.hit_ratio == 1
    assert plan.ranking_ms == pytest.approx(0.5 + 1.0)
    assert plan.workers == math.ceil(1000 * 1.5 / 1000 / 0.6)
    assert plan.hosts == 1
    assert plan.redis_gb == pytest.approx((1e6 * 8000 + 10_000 * 400) / 1e9)
    assert plan.shards_by["memory"] == pytest.approx(plan.redis_gb * 1.25 / 25)
    assert plan.shards_by["CPU"] == pytest.approx(1000 * 0.02 / 1000 / 0.5)
    assert plan.client_gbit_s == pytest.approx(1000 * (300 + 200 * 10 + 200 + 50 * 90) * 8 / 1e9)
    assert plan.redis_gbit_s == pytest.approx(1000 * 3000 * 8 / 1e9)
    assert plan.log_gb_s == pytest.approx(1000 * (100 + 50 * 20) / 1e9)
    assert plan.dollars_month["log"] == pytest.approx(1100e-6 * 0.5 * 86_400 * 30 * 0.02)
    assert plan.hottest_item == 0


def test_a_candidate_that_no_cache_holds_costs_more_everywhere(figures: Figures) -> None:
    small = plan_of(figures, DEMAND, Assumptions())
    none = plan_of(figures, DEMAND, assumed({"item_cache_mb": 0}))
    assert none.hit_ratio == 0
    assert none.ranking_ms == pytest.approx(small.ranking_ms + 200 * 0.002)
    assert none.shards_by["CPU"] == pytest.approx(1000 * (0.02 + 0.2) / 1000 / 0.5)
    assert none.redis_gbit_s == pytest.approx(1000 * (3000 + 200 * 200) * 8 / 1e9)
    # The most popular item is in nearly every ranking, once.
    assert 0.8 / 200 < none.hottest_item <= 1 / 200


def test_what_one_missing_row_costs_is_added_once() -> None:
    cost = RankingCost(fixed=1.0, per_candidate=0.1, any_missing=2.0, per_missing_item=0.01)
    assert [cost.at(10, missing) for missing in (0, 0.5, 1, 10)] == pytest.approx([2.0, 3.005, 4.01, 4.1])


def test_twice_the_rankings_need_twice_the_cores_and_as_much_memory_of_redis(figures: Figures) -> None:
    large = Demand(users=1e9, items=1e8, qps=1e6, candidates=500)
    one = plan_of(figures, large, Assumptions())
    two = plan_of(figures, replace(large, qps=2e6), Assumptions())
    assert two.workers == pytest.approx(2 * one.workers, abs=1)
    assert two.hosts == pytest.approx(2 * one.hosts, abs=1)
    assert two.redis_gb == one.redis_gb
    assert two.log_gb_s == pytest.approx(2 * one.log_gb_s)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [({}, "cores"), ({"host_memory_gb": 1, "item_cache_mb": 256}, "memory"), ({"host_gbit_s": 0.1}, "network")],
)
def test_the_scarcest_of_cores_memory_and_network_decides_on_the_hosts(
    figures: Figures, changes: dict[str, float], bound: str
) -> None:
    demand = replace(DEMAND, items=1e7, qps=1e5)
    plan = plan_of(figures, demand, assumed(changes))
    assert max(plan.hosts_by, key=lambda name: plan.hosts_by[name]) == bound
    assert plan.hosts == math.ceil(plan.hosts_by[bound])
    assert any(f"by {bound}:" in line for line in lines_of(plan, figures, demand, assumed(changes)))


def test_every_assumption_is_printed_by_its_name_and_changes_something(figures: Figures) -> None:
    demand = Demand(users=1e8, items=1e7, qps=1e6, candidates=500)
    plan = plan_of(figures, demand, Assumptions())
    text = "\n".join(lines_of(plan, figures, demand, Assumptions()))
    for field in fields(Assumptions):
        assert f"\n  {field.name} " in text
        value = getattr(Assumptions(), field.name)
        other = plan_of(figures, demand, assumed({field.name: value * 0.8 if value else 1.0}))
        assert other != plan, f"{field.name} changes nothing"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zip": 1.0}, "'zip' is no assumption; there are: core_hour"),
        ({"zipf": -1.0}, "zipf: -1 is no amount"),
        ({"zipf": math.nan}, "zipf: nan is no amount"),
        ({"utilisation": 1.0}, "utilisation: 1 is no share between 0 and 1"),
        ({"core_speed": 0.0}, "core_speed: it is a divisor"),
        ({"cores_per_host": 2.0}, "no core is left beside spare_cores_per_host"),
    ],
)
def test_assumptions_that_make_no_sense_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        assumed(changes)


def test_tables_that_leave_no_room_for_a_worker_are_refused(figures: Figures) -> None:
    with pytest.raises(ValueError, match="128 GB hold no worker beside the tables"):
        plan_of(figures, DEMAND, assumed({"table_gb": 128}))


def test_a_plan_without_prices_costs_nothing(figures: Figures) -> None:
    free = assumed(dict.fromkeys(("core_hour", "memory_gb_month", "log_gb_month", "network_gb"), 0.0))
    text = "\n".join(lines_of(plan_of(figures, DEMAND, free), figures, DEMAND, free))
    assert "cost drivers                 0  dollars a month" in text


def test_a_service_has_one_item_at_least(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--items", "0.5"]) == 2
    assert "0.5 is not in the range" in capsys.readouterr().err


COMMAND = ("plan", "--users", "1e9", "--items", "1e8", "--qps", "1e6", "--candidates", "500")


def test_the_command_plans_from_the_figures_of_the_projects_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--simulate", "--assume", "zipf=1.0"]) == 0
    printed = capsys.readouterr().out
    for word in ("workers", "hosts", "Redis shards", "network", "log", "cost drivers", "the peak", "fullest shard"):
        assert word in printed
    assert "zipf                  1\n" in printed
    checks = read_figures(SHIPPED).checks
    assert len(checks) >= 6
    rows = [line for line in printed.splitlines() if " planned " in line]
    assert [line.strip().split("  ")[0] for line in rows] == [check.what for check in checks]
    assert len({line.index("planned ") for line in rows}) == 1


@pytest.mark.parametrize(
    ("arguments", "content", "words"),
    [
        (("--assume", "zipf"), None, "'zipf' is not NAME=VALUE with a number"),
        (("--assume", "zpf=1"), None, "'zpf' is no assumption"),
        (("--figures", "FILE"), None, "bench-capacity --out"),
        (("--figures", "FILE"), "{}", "machine: Field required"),
        (("--figures", "FILE"), "no", "Invalid JSON"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(arguments, content, words, tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    if content is not None:
        file.write_text(content)
    code = main([*COMMAND, *(str(file) if argument == "FILE" else argument for argument in arguments)])
    assert code in (1, 2)
    assert words in capsys.readouterr().err
