"""Tests the soak's checks: a right answer passes, and every kind of wrong answer is named."""

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtest.soak.checks import FORMULA, fault_in, growth, score_of
from loadtest.soak.revisions import look_up_revision, record_revisions
from loadtest.soak.state import Soak, SoakOptions

PROFILE = {"kind": "weighted_sum", "weights": {"pctr": 2.0}}
REQUEST = {"candidates": ["a", "b"]}
ANSWER = {
    "model": {"name": "m", "version": "1"},
    "fusion": {"profile": "default", "revision": 3},
    "ranking": [
        {"item_id": "b", "score": 1.0, "predictions": {"pctr": 0.5}},
        {"item_id": "a", "score": 0.2, "predictions": {"pctr": 0.1}},
    ],
}


def spoilt(change: Any) -> dict[str, Any]:
    answer = copy.deepcopy(ANSWER)
    change(answer)
    return answer


def test_a_right_answer_has_no_fault() -> None:
    assert fault_in(ANSWER, REQUEST, {3: PROFILE}, {"m/1"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["model"].update(version="2"), "never rolled out"),
        (lambda a: a["ranking"].pop(), "not the candidates"),
        (lambda a: a["ranking"].reverse(), "do not descend"),
        (lambda a: a["ranking"][1].update(score=None), "missing"),
        (lambda a: a["ranking"][0].update(score=1.1), "revision 3 gives 1.0"),
        (lambda a: a["fusion"].update(revision=4), "revision 4 was never live"),
    ],
)
def test_every_kind_of_wrong_answer_is_told(change: Any, message: str) -> None:
    assert message in (fault_in(spoilt(change), REQUEST, {3: PROFILE}, {"m/1"}) or "")


def test_scores_of_each_kind_of_profile() -> None:
    assert score_of({"kind": "weighted_product", "weights": {"pctr": 2}}, {"pctr": 0.5}) == pytest.approx(0.25)
    assert score_of({"kind": "formula", "formula": FORMULA, "weights": {"a": 1}}, {"pctr": 0.01}) == pytest.approx(
        0.01 * 0.6931472
    )
    with pytest.raises(ValueError, match="did not write"):
        score_of({"kind": "formula", "formula": "pctr", "weights": {}}, {"pctr": 0.5})


def test_growth_compares_the_end_with_what_came_after_the_warm_up() -> None:
    assert growth([1, 5, 5, 5, 5, 5, 5, 5]) == 1
    assert growth([1, 5, 5, 5, 5, 5, 10, 10]) == 2


def test_a_change_without_an_answer_is_learnt_from_the_history(tmp_path: Path) -> None:
    soak = Soak(SoakOptions("http://127.0.0.1:9", "t", tmp_path), [])
    older = {"kind": "weighted_sum", "weights": {"pctr": 1.0}}
    record_revisions(soak, "no answer")
    history = [{"revision": 4, "profiles": {"default": older}}, {"revision": 3, "profiles": {"home": older}}]
    record_revisions(soak, {"revision": 5, "profiles": {"default": PROFILE}, "history": history})
    assert soak.profiles == {5: PROFILE, 4: older}


def test_a_revision_that_ranks_before_its_own_call_has_returned_is_looked_up(tmp_path: Path) -> None:
    """The worker that is asked first may still follow the revision before."""
    revisions = iter([6, 7])

    class Documents(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name of the standard library
            document = {"revision": next(revisions), "profiles": {"default": PROFILE}}
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Documents) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        soak = Soak(SoakOptions(f"http://127.0.0.1:{server.server_port}", "t", tmp_path), [])
        look_up_revision(soak, 7)
        server.shutdown()
        thread.join()
    assert soak.profiles[7] == PROFILE
