"""Tests KuaiRand's tables: no day after 30 April in a feature, no repeated rows, documented actions and times."""

import numpy as np
import pandas as pd
import pytest

from funnelrank.main import main
from models.prepare.kuairand import HISTORY, ITEMS, LICENCE, LOG, USERS, prepare_kuairand

APRIL_26, MAY_2 = (
    int(pd.Timestamp(day, tz="Asia/Shanghai").value // 1_000_000) for day in ("2022-04-26 12:00", "2022-05-02 12:00")
)
LABELS = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "is_profile_enter")


def log_row(user, video, time_ms, date, **labels):
    zero = dict.fromkeys(LABELS, 0) | {"play_time_ms": 100, "duration_ms": 1000, "hourmin": 1200, "tab": 1}
    return {"user_id": user, "video_id": video, "time_ms": time_ms, "date": date} | zero | labels


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    early = log_row(1, 10, APRIL_26, 20220426, is_click=1, long_view=1)
    log = [
        early,
        early,
        log_row(1, 11, APRIL_26 + 5, 20220426, is_click=1),
        log_row(2, 10, MAY_2, 20220502, is_click=1, is_like=1, long_view=1),
    ]
    pd.DataFrame(log).to_parquet(folder / LOG)
    users = {
        "user_id": [1, 2],
        "is_lowactive_period": [0, 0],
        "onehot_feat4": [3.0, np.nan],
        "user_active_degree": ["full", "middle"],
    }
    pd.DataFrame(users).to_parquet(folder / USERS)
    videos = {
        "video_id": [10, 11],
        "author_id": [5, 5],
        "visible_status": [0.0, 0.0],
        "video_duration": [8000.0, np.nan],
        "tag": ["39,2", None],
    }
    videos |= {"server_width": [720.0, 1.0], "server_height": [1280.0, 1.0], "music_type": [9.0, np.nan]}
    pd.DataFrame(videos).to_parquet(folder / ITEMS)
    history = {
        "user_id": [1],
        "history_len": [3],
        "last_time_ms": [APRIL_26 - 3 * 86_400_000],
        "watch_seq": [[11, 10, 11, 10]],
    }
    history |= {"like_seq": [np.zeros(0, np.int64)], "long_watch_seq": [[10]]}
    pd.DataFrame(history).to_parquet(folder / HISTORY)
    (folder / LICENCE).write_text("the licence")
    return folder


@pytest.fixture
def tables(source, tmp_path):
    prepare_kuairand(source, tmp_path / "out")
    return {path.stem: pd.read_parquet(path) for path in (tmp_path / "out").glob("*.parquet")}


def test_rows_repeated_in_all_columns_count_once(tables):
    assert len(tables["impressions"]) == 3


def test_statistics_end_on_30_april(tables):
    users = tables["users"].set_index("user_id")
    assert users.user_impressions[1] == 2
    assert np.isnan(users.user_impressions[2]), "user 2 appears on 2 May only"
    items = tables["items"].set_index("item_id")
    assert items.item_impressions.to_dict() == {10: 1, 11: 1}
    overall = 0.5
    prior = 20
    assert items.item_long_view_rate[10] == pytest.approx((1 + prior * overall) / (1 + prior), abs=1e-4)
    assert (items.item_like_rate == 0).all(), "the like of 2 May is not known yet"


def test_no_impression_is_counted_in_the_features_of_the_part_that_it_is_learnt_in(source, tmp_path):
    """The log's `date` may be the day after the date of the timestamp; the recipes split by `date`."""
    log = pd.read_parquet(source / LOG)
    last_minutes = int(pd.Timestamp("2022-04-30 23:50", tz="Asia/Shanghai").value // 1_000_000)
    late = pd.DataFrame([log_row(2, 11, last_minutes, 20220501, is_click=1, is_like=1)])
    pd.concat([log, late]).to_parquet(source / LOG)
    prepare_kuairand(source, tmp_path / "out")
    users = pd.read_parquet(tmp_path / "out" / "users.parquet").set_index("user_id")
    items = pd.read_parquet(tmp_path / "out" / "items.parquet").set_index("item_id")
    impressions = pd.read_parquet(tmp_path / "out" / "impressions.parquet")
    assert ((impressions.date == 20220501) & (impressions.time_ms == last_minutes)).sum() == 1
    assert np.isnan(users.user_impressions[2]), "the impression of 1 May is learnt from, so it is not counted"
    assert items.item_impressions[11] == 1 and (items.item_like_rate == 0).all()
    counted = impressions[impressions.date < 20220501].groupby("user_id").size()
    assert users.user_impressions.dropna().to_dict() == counted.to_dict()


def test_behaviours_are_the_history_and_the_log_with_their_strongest_action(tables):
    behaviours = tables["behaviours"]
    assert len(behaviours) == 4 + 3
    logged = behaviours[behaviours.scene.notna()].set_index(["user_id", "item_id"]).action.astype(str)
    assert logged.to_dict() == {(1, 10): "long_view", (1, 11): "click", (2, 10): "like"}
    history = behaviours[behaviours.scene.isna()]
    assert history.action.astype(str).tolist() == ["seen", "long_view"] * 2, "nobody knows of clicks then"


def test_history_without_times_is_spread_back_from_its_newest_and_stays_before_the_log(tables):
    history = tables["behaviours"][tables["behaviours"].scene.isna()].time_ms
    newest = APRIL_26 - 3 * 86_400_000
    assert newest - 3_600_000 < history.iloc[-1] <= newest
    assert (history % 3_600_000 == 0).all()
    assert history.is_monotonic_increasing
    steps = history.diff().dropna()
    assert steps.max() - steps.min() <= 3_600_000
    assert history.min() >= pd.Timestamp("2022-04-08", tz="Asia/Shanghai").value // 1_000_000


def test_tags_are_lists_hours_are_local_and_gaps_stay_missing(tables):
    items = tables["items"].set_index("item_id")
    assert items.tag[10].tolist() == [39, 2]
    assert items.tag[11].tolist() == []
    assert items.duration_bucket[10] == 9
    assert pd.isna(items.duration_bucket[11])
    assert set(tables["impressions"].hour) == {12}
    assert pd.isna(tables["users"].set_index("user_id").onehot_feat4[2])


def test_the_licence_travels_with_the_tables_and_their_sample(source, tmp_path, capsys):
    assert main(["prepare", "kuairand", "--source", str(source), "--out", str(tmp_path / "out")]) == 0
    assert main(["prepare", "sample", "--source", str(tmp_path / "out"), "--out", str(tmp_path / "sample")]) == 0
    for folder in ("out", "sample"):
        assert (tmp_path / folder / LICENCE).read_text() == "the licence"
    assert "impressions.parquet: 3 rows" in capsys.readouterr().out


def test_a_missing_original_is_named(tmp_path, capsys):
    assert main(["prepare", "kuairand", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert LOG in capsys.readouterr().err


def test_an_original_that_cannot_be_read_is_told_in_one_line(source, tmp_path, capsys):
    command = ["prepare", "kuairand", "--source", str(source), "--out", str(tmp_path / "out")]
    pd.read_parquet(source / ITEMS).drop(columns="author_id").to_parquet(source / ITEMS)
    assert main(command) == 1
    assert f"{ITEMS} (original): no column 'author_id'" in capsys.readouterr().err
    (source / LOG).write_bytes(b"PAR1 not really")
    assert main(command) == 1
    stderr = capsys.readouterr().err
    assert f"{LOG} (original): cannot be read" in stderr and "Traceback" not in stderr
