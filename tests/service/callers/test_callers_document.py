"""Tests the callers document: its changes, its hashes, and what is followed if the file is broken or gone."""

import errno
import json
import threading
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from funnelrank.main import main
from service.callers.document import (
    CALLERS_FILE,
    DOCUMENT,
    MOST_KEYS,
    CallerRole,
    CallersDocument,
    add_caller,
    read_followed_callers,
    revoke,
    rotate_key,
)
from service.callers.rate import TokenBucket
from service.documents import DocumentUnreadable, Edit, revisioned
from service.errors import Conflict


def document(registry: Path) -> CallersDocument:
    held = DOCUMENT.read(registry)
    assert held is not None
    return held


def test_a_key_has_256_random_bits_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    keys = {add_caller(tmp_path, f"caller-{i}", CallerRole.READ, None, "me") for i in range(20)}
    assert len(keys) == 20
    assert all(key.startswith("fr_") and len(key) == 3 + 43 for key in keys)
    stored = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert not any(key in stored or key[3:] in stored for key in keys)
    assert {key.sha256 for caller in document(tmp_path).callers for key in caller.keys} == {
        sha256(key.encode()).hexdigest() for key in keys
    }


def test_a_rotation_leaves_the_old_key_for_a_time_or_ends_it_at_once(tmp_path: Path) -> None:
    add_caller(tmp_path, "shop", CallerRole.WRITE, 5, "me")
    rotate_key(tmp_path, "shop", timedelta(hours=1), "me")
    old, new = document(tmp_path).callers[0].keys
    assert old.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - new.created_at <= timedelta(hours=1)
    rotate_key(tmp_path, "shop", timedelta(hours=9), "me")
    assert document(tmp_path).callers[0].keys[0] == old  # a longer overlap does not prolong it
    rotate_key(tmp_path, "shop", timedelta(0), "me")
    assert len(document(tmp_path).callers[0].keys) == 1


def test_a_caller_has_a_bounded_number_of_keys(tmp_path: Path) -> None:
    add_caller(tmp_path, "shop", CallerRole.WRITE, 5, "me")
    for _ in range(MOST_KEYS - 1):
        rotate_key(tmp_path, "shop", timedelta(hours=1), "me")
    with pytest.raises(Conflict, match="revoke one first"):
        rotate_key(tmp_path, "shop", timedelta(hours=1), "me")


def test_a_revoked_key_is_in_no_history(tmp_path: Path) -> None:
    key = add_caller(tmp_path, "shop", CallerRole.WRITE, None, "me")
    rotate_key(tmp_path, "shop", timedelta(hours=1), "me")
    old = sha256(key.encode()).hexdigest()
    revoke(tmp_path, "shop", old[:12], "me")
    assert old not in (tmp_path / CALLERS_FILE).read_text()
    revoke(tmp_path, "shop", None, "me")
    assert document(tmp_path).callers == ()
    with pytest.raises(Conflict, match="history has nothing"):
        DOCUMENT.roll_back(tmp_path, Edit("me"))


def test_concurrent_changes_are_all_kept(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=add_caller, args=(tmp_path, f"c{i}", CallerRole.READ, None, "me")) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {caller.name for caller in document(tmp_path).callers} == {f"c{i}" for i in range(8)}


@pytest.mark.parametrize(
    "fault",
    [
        {"name": "a b"},
        {"name": "x" * 65},
        {"name": ""},
        {"role": "admin"},
        {"rate": 0},
        {"rate": -1},
        {"rat": 5},
        {"keys": [{"sha256": "00", "created_at": "2026-01-01T00:00:00Z"}]},
        {"keys": [{"sha256": "0" * 64, "created_at": "2026-01-01T00:00:00"}]},
        {"keys": [{"sha256": "0" * 64, "created_at": "2026-01-01T00:00:00Z"}] * 2},
    ],
    ids=range(10),
)
def test_a_faulty_document_is_refused(tmp_path: Path, fault: dict[str, object]) -> None:
    caller = {"name": "shop", "role": "read"} | fault
    (tmp_path / CALLERS_FILE).write_text(json.dumps({"revision": 1, "callers": [caller]}))
    with pytest.raises(DocumentUnreadable, match=CALLERS_FILE):
        DOCUMENT.read(tmp_path)
    document, problem = read_followed_callers(tmp_path)
    assert (document, bool(problem)) == (None, True)


def test_if_the_file_is_broken_or_gone_its_copy_is_followed(tmp_path: Path) -> None:
    assert read_followed_callers(tmp_path) == (None, "")
    add_caller(tmp_path, "shop", CallerRole.WRITE, None, "me")
    held = document(tmp_path)
    assert read_followed_callers(tmp_path) == (held, "")
    (tmp_path / CALLERS_FILE).write_text("{")
    assert read_followed_callers(tmp_path)[0] == held
    (tmp_path / CALLERS_FILE).unlink()
    followed, problem = read_followed_callers(tmp_path)
    assert followed == held
    assert problem.endswith("is gone")
    (tmp_path / f".{CALLERS_FILE}.last").write_text("{")
    followed, problem = read_followed_callers(tmp_path)
    assert followed is None
    assert problem.endswith("is gone")


def test_the_command_prints_each_key_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = ("--registry", str(tmp_path))
    assert main(["callers", "list", *registry]) == 0
    assert "everybody may rank" in capsys.readouterr().err
    assert main(["callers", "add", "shop", "--role", "write", "--rate", "5", *registry]) == 0
    first = capsys.readouterr().out.strip()
    assert main(["callers", "rotate", "shop", *registry]) == 0
    second = capsys.readouterr().out.strip()
    hashes = [sha256(key.encode()).hexdigest() for key in (first, second)]
    assert [key.sha256 for key in document(tmp_path).callers[0].keys] == hashes
    assert main(["callers", "list", *registry]) == 0
    listed = capsys.readouterr().out
    assert "shop" in listed and "5/s" in listed and hashes[0][:12] in listed
    assert first not in listed
    assert main(["callers", "revoke", "shop", "--key", hashes[0][:12], *registry]) == 0
    assert main(["callers", "revoke", "shop", *registry]) == 0


def test_the_list_of_unreadable_documents_does_not_say_that_everybody_may_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_caller(tmp_path, "shop", CallerRole.WRITE, None, "me")
    (tmp_path / f".{CALLERS_FILE}.last").write_text("{")
    for content in ("{", None):
        (tmp_path / CALLERS_FILE).unlink()
        if content is not None:
            (tmp_path / CALLERS_FILE).write_text(content)
        assert main(["callers", "list", "--registry", str(tmp_path)]) == 1
        output = capsys.readouterr().err
        assert "everybody" not in output and "its copy cannot be read either" in output
        (tmp_path / CALLERS_FILE).touch()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["add", "a b"], 1, "name"),
        (["add", "x", "--rate", "0"], 1, "rate"),
        (["add", "x", "--rate", "nan"], 1, "rate"),
        (["add", "shop"], 1, "already"),
        (["add", "x", "--role", "admin"], 2, "admin"),
        (["rotate", "shup"], 1, "did you mean"),
        (["rotate", "shop", "--overlap-hours", "-1"], 2, "overlap"),
        (["revoke", "nobody"], 1, "no caller nobody"),
        (["revoke", "shop", "--key", "0"], 1, "no key 0"),
    ],
)
def test_the_command_refuses_with_a_message(
    tmp_path: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_caller(tmp_path, "shop", CallerRole.WRITE, None, "me")
    before = (tmp_path / CALLERS_FILE).read_bytes()
    assert main(["callers", *words, "--registry", str(tmp_path)]) == code
    assert message in capsys.readouterr().err
    assert (tmp_path / CALLERS_FILE).read_bytes() == before


def test_a_bucket_gives_a_burst_of_one_second_and_then_the_rate() -> None:
    bucket = TokenBucket(10, 0.0)
    assert [bucket.take(0.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.1) == 0.0
    assert bucket.take(0.05) == pytest.approx(0.1)  # an earlier time adds nothing
    taken = sum(bucket.take(0.1 + step / 1000) == 0 for step in range(1, 10_001))
    assert taken in (99, 100)  # sums of floats may miss the last one
    slow = TokenBucket(0.25, 0.0)
    assert slow.take(0.0) == 0
    assert slow.take(0.0) == pytest.approx(4.0)


def test_a_change_without_the_file_starts_from_the_copy_that_is_followed(tmp_path: Path) -> None:
    add_caller(tmp_path, "shop", CallerRole.WRITE, 5, "me")
    add_caller(tmp_path, "app", CallerRole.READ, None, "me")
    (tmp_path / CALLERS_FILE).unlink()
    add_caller(tmp_path, "new", CallerRole.READ, None, "me")
    followed, problem = read_followed_callers(tmp_path)
    assert followed is not None and not problem
    assert [(c.name, c.role, c.rate, len(c.keys)) for c in followed.callers] == [
        ("shop", CallerRole.WRITE, 5, 1),
        ("app", CallerRole.READ, None, 1),
        ("new", CallerRole.READ, None, 1),
    ]
    (tmp_path / CALLERS_FILE).unlink()
    revoke(tmp_path, "shop", None, "me")
    followed, _ = read_followed_callers(tmp_path)
    assert followed is not None and [c.name for c in followed.callers] == ["app", "new"]


def test_a_copy_that_cannot_be_written_never_restores_a_revoked_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_caller(tmp_path, "shop", CallerRole.WRITE, None, "me")
    add_caller(tmp_path, "app", CallerRole.READ, None, "me")
    write = revisioned.write_whole

    def full_disk(path: Path, content: bytes) -> None:
        if path.name != CALLERS_FILE:
            raise OSError(errno.ENOSPC, "no space left", str(path))
        write(path, content)

    monkeypatch.setattr(revisioned, "write_whole", full_disk)
    revoke(tmp_path, "shop", None, "me")
    (tmp_path / CALLERS_FILE).write_text("{")
    followed, problem = read_followed_callers(tmp_path)
    assert (followed, bool(problem)) == (None, True), "the admin token alone, rather than a revoked key"
