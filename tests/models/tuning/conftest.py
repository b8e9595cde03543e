"""The fixture of the search's tests: the tiny recipe with a tuning section."""

import pytest

SPACE = {
    "model.dropout": {"low": 0.0, "high": 0.4},
    "model.trunk": {"choices": [{"type": "mmoe", "experts": 2}, {"type": "shared_bottom", "hidden": [8]}]},
    "training.batch_size": {"low": 32, "high": 128, "log": True},
}
OWN = {
    "model.trunk": {"type": "mmoe", "experts": 2},
    "training.epochs": 1,
    "training.select_on": ["pctr", "plong_view"],
}


@pytest.fixture
def searched(tiny_recipe):
    """The tiny recipe with a tuning section; `changes` are dotted paths."""

    def make(tables=None, changes=None, **section):
        return tiny_recipe(tables, OWN | {"tuning": {"trials": 3, "space": SPACE} | section} | (changes or {}))

    return make
