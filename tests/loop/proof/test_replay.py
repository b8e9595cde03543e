"""Tests replays with one thing changed, over a log that a service wrote: rules, the present rows, and pages."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rules_service import ids

from features.layouts import BEHAVIOUR_INPUTS, CANDIDATE_INPUTS, REQUEST_INPUTS
from funnelrank.main import main
from loop.errors import LogError
from loop.log.hours import hour_files
from loop.proof.again import logged_predictions, logged_request
from loop.proof.present import with_present_rows
from loop.proof.records import layouts_of, pages_of
from loop.proof.replay import Replay, replay
from loop.proof.replay_lines import lines
from loop.proof.verify import verify
from service.clock import now_ms
from tables.log_records import RecordKind


def replayed(served: SimpleNamespace, request_id: str, **change: Any) -> Replay:
    return replay(served.log, served.registry, request_id, **change)


def answered(served: SimpleNamespace, request_id: str) -> list[list[str]]:
    return [ids(body) for body in served.answers[request_id]]


@pytest.mark.parametrize("request_id", ["plain", "weighted", "free", "pinned", "paged", "later", "second", "mixed"])
def test_every_page_replays_bit_for_bit_in_the_order_that_was_answered(
    changing: SimpleNamespace, request_id: str
) -> None:
    """Also where rules arranged the list: a pin, and on three pages what was seen, a distance and sources in turn."""
    again = replayed(changing, request_id)
    assert again.differing == []
    assert [page.listed for page in again.pages] == answered(changing, request_id)
    assert lines(again)[-2:] == ["the list is the same", "every score is the same, bit for bit"]


def test_the_replayed_pages_of_a_list_have_every_item_once(changing: SimpleNamespace) -> None:
    pages = [page.listed or [] for page in replayed(changing, "paged").pages]
    assert [len(page) for page in pages] == [5, 5, 5]
    assert len({item for page in pages for item in page}) == 15
    seen = ids(changing.answers["plain"][0])[:2]
    assert not any(item in page for page in pages for item in seen)


def test_no_rules_are_revision_0(changing: SimpleNamespace) -> None:
    again = replayed(changing, "pinned", rules="0")
    assert again.differing == []
    assert again.is_moved
    # The scores of both requests are the same, so that the list is that from before the pin.
    assert [page.listed for page in again.pages] == answered(changing, "free")


def test_a_revision_of_the_rules_arranges_an_earlier_list(changing: SimpleNamespace) -> None:
    assert [page.listed for page in replayed(changing, "free", rules="1").pages] == answered(changing, "pinned")
    with pytest.raises(LogError, match=r"revision 7 of the rules is not in .*rules\.json, which has 1"):
        replayed(changing, "free", rules="7")


def test_a_file_of_rules_arranges_every_page(
    changing: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: {paged: [{type: block, item_ids: ['20', '22']}]}")
    first, *later = [page.listed or [] for page in replayed(changing, "paged", rules=str(file)).pages]
    by_score = [page.listed or [] for page in replayed(changing, "paged", rules="0").pages]
    every = [item for page in by_score for item in page if item not in ("20", "22")]
    assert [*first, *(item for page in later for item in page)][: len(every)] == every
    words = ["replay", "free", "--log", str(changing.log), "--registry", str(changing.registry)]
    file.write_text("rules: {default: [{type: pin, item_id: '3', position: 2}]}")
    assert main([*words, "--rules", str(file)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "different: the list" in shown
    assert shown[shown.index("different: the list") + 3].split()[::4] == ["2", "3"]
    assert main(words) == 0


def test_rules_that_do_not_fit_the_model_are_refused(
    changing: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: {default: [{type: spread, feature: brand, distance: 2}]}")
    words = ["replay", "free", "--log", str(changing.log), "--registry", str(changing.registry)]
    assert main([*words, "--rules", str(file)]) == 1
    assert "items have no categorical feature 'brand'" in capsys.readouterr().err


def test_the_present_rows_give_the_scores_of_the_present(
    changing: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The graph does not read the time, and between `later` and `dearer` only rows of the store have changed."""
    before = replayed(changing, "later", redis_url=changing.redis_url)
    (dearer,) = pages_of(changing.log, "dearer")
    assert before.pages[0].listed == answered(changing, "dearer")[0]
    by_item = dict(zip(dearer["item_ids"], logged_predictions(dearer).T.tolist(), strict=True))
    items = before.pages[0].exposure["item_ids"]
    np.testing.assert_array_equal(before.pages[0].again.predictions.T, [by_item[item] for item in items])
    assert replayed(changing, "dearer", redis_url=changing.redis_url).differing == []
    monkeypatch.setenv("FUNNELRANK_REDIS_URL", changing.redis_url)
    words = ["replay", "later", "--log", str(changing.log), "--registry", str(changing.registry), "--features", "now"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "by synthetic/1, profile default, with the rows of now" in shown
    assert "different: pctr, pcvr, pctcvr, score, the list" in shown


def test_what_the_request_gave_stays_as_it_was(changing: SimpleNamespace) -> None:
    """Prices of the items 0 to 11 have changed since, and the request gave features of the item 4."""
    (record,) = pages_of(changing.log, "plain")
    layouts = layouts_of(changing.log, record["schema"])
    given = {**record, "of_request": ["user", "behaviours"], "items_of_request": [4]}
    request = logged_request(given, layouts)
    assert request.item_ids[:5] == ["0", "1", "2", "3", "4"]
    present = with_present_rows(request, layouts, changing.redis_url, now_ms())
    now = present.request.inputs
    changed = (now["item_numerics"] != request.inputs["item_numerics"]).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [0, 1, 2, 3, *range(5, 12)]
    for name in (*REQUEST_INPUTS, *BEHAVIOUR_INPUTS, *CANDIDATE_INPUTS):
        np.testing.assert_array_equal(now[name], request.inputs[name])
    assert present.notes == [
        "the request gave its user, its behaviours, features of 1 of its items: these stay as they were"
    ]
    # Without them the user's newest behaviour is there.
    alone = with_present_rows(logged_request(record, layouts), layouts, changing.redis_url, now_ms())
    assert len(alone.request.inputs["behaviour_times"]) == len(request.inputs["behaviour_times"]) + 1


def test_a_store_that_does_not_answer_is_a_message(changing: SimpleNamespace) -> None:
    with pytest.raises(LogError, match="the present rows cannot be read from the store"):
        replayed(changing, "later", redis_url="redis://127.0.0.1:1/0")


def test_unknown_rows_are_counted(changing: SimpleNamespace) -> None:
    (page,) = replayed(changing, "other", redis_url=changing.redis_url).pages
    assert page.notes == ["the store has no row of the user now"]


def rewritten(served: SimpleNamespace, folder: Path, rewrites: str, **changes: Any) -> Path:
    """A copy of the log in which the first page of a request has other values."""
    (path,) = hour_files(served.log, RecordKind.EXPOSURES)
    table = pq.read_table(path)
    rows = table.to_pylist()
    next(row for row in rows if row["request_id"] == rewrites and not row["ranked_before"]).update(changes)
    (folder / "hours" / path.parent.name).mkdir(parents=True)
    (folder / "schemas").symlink_to(served.log / "schemas")
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "hours" / path.parent.name / path.name)
    return folder


def test_a_list_that_was_changed_does_not_replay(changing: SimpleNamespace, tmp_path: Path) -> None:
    (record,) = pages_of(changing.log, "pinned")
    log = rewritten(changing, tmp_path / "log", "pinned", rules_list=None, rules_revision=None)
    again = replay(log, changing.registry, "pinned")
    assert again.differing == []
    assert again.is_moved
    assert main(["replay", "pinned", "--log", str(log), "--registry", str(changing.registry)]) == 1
    assert record["rules_list"] == "shop"


def test_what_a_record_lacks_for_its_rules_is_said(changing: SimpleNamespace, tmp_path: Path) -> None:
    log = rewritten(changing, tmp_path / "earlier", "pinned", top_k=None)
    (page,) = replay(log, changing.registry, "pinned").pages
    assert page.listed is None
    assert "the record is of an earlier release" in page.notes[0]
    log = rewritten(changing, tmp_path / "pages", "paged", request_id="another")
    second, third = replay(log, changing.registry, "paged").pages
    assert (second.listed, third.listed) == (None, None)
    assert "the pages before this one have other request ids" in second.notes[0]
    log = rewritten(changing, tmp_path / "revision", "pinned", rules_revision=9)
    (page,) = replay(log, changing.registry, "pinned").pages
    assert "revision 9 of the rules is not in" in page.notes[0]


def test_a_record_that_lacks_candidates_has_a_list_if_no_rules_arranged_it(
    changing: SimpleNamespace, tmp_path: Path
) -> None:
    log = rewritten(changing, tmp_path / "free", "free", requested=100)
    (page,) = replay(log, changing.registry, "free").pages
    assert [page.listed] == answered(changing, "free")
    assert page.notes == ["the record has 24 of 100 candidates (FUNNELRANK_EXPOSURE_CUT): last bits may differ"]
    log = rewritten(changing, tmp_path / "pinned", "pinned", requested=100)
    (page,) = replay(log, changing.registry, "pinned").pages
    assert page.listed is None
    assert page.notes[1] == "rules need every candidate; the list is shown before the rules"


def test_a_record_without_items_replays(changing: SimpleNamespace, tmp_path: Path) -> None:
    """As it is logged where rules removed every candidate, and the log has none of those that were cut."""
    nothing: dict[str, Any] = {name: [] for name in ("item_ids", "places", "scores", "predictions")}
    nothing |= {"returned": 0, "item_keys": b"", "item_numerics": b"", "candidate_numerics": b""}
    nothing |= {"counter_numerics": b""}
    log = rewritten(changing, tmp_path / "log", "plain", **nothing)
    assert replay(log, changing.registry, "plain").differing == []
    done = verify(log, changing.registry)
    assert (done.skews, done.skipped, done.bit_equal) == ({}, {}, done.exposures)
