"""Tests the data that a worker gets at its start: the key of page tokens."""

import pickle
from dataclasses import replace

from service.rules.pages import page_key
from service.server.start import WorkerStart
from service.settings import Settings


def test_workers_of_one_start_share_a_random_key_where_no_admin_token_is_set() -> None:
    start = WorkerStart(Settings())
    to_worker = pickle.loads(pickle.dumps(start))
    assert to_worker.page_key == start.page_key
    # A worker that starts later, with other profiles, reads the tokens of the earlier ones.
    assert replace(start, profiles=None).page_key == start.page_key
    # Nobody can derive the key, and another start has another one.
    assert start.page_key != WorkerStart(Settings()).page_key
    assert repr(start.page_key) not in repr(start)


def test_an_admin_token_makes_the_key_so_that_hosts_share_it() -> None:
    settings = Settings.model_validate({"admin_token": "secret"})
    assert WorkerStart(settings).page_key == WorkerStart(settings).page_key == page_key("secret")
