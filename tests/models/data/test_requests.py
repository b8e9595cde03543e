"""Tests that training compares the impressions of a request as the service compares its candidates."""

import numpy as np
import pytest
from small_tables import RECIPE, merged

from features.within_request import ComparedColumns, within_request
from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.recipe import RecipeError, parse_recipe

ITEM = [*RECIPE["features"]["item"][:2], {"name": "length", "type": "numeric", "within_request": True}]
COMPARED = {"data.request_id": "search", "features.item": ITEM}


@pytest.fixture
def searches(tables):
    """Impressions in requests of one day."""
    impressions = tables["impressions"]
    day = (impressions.time_ms - impressions.time_ms.min()) // 3_600_000
    impressions["search"] = [f"{user % 4}-{hour}" for user, hour in zip(impressions.user_id, day, strict=True)]
    tables["items"].loc[3:6, "length"] = np.nan
    return tables


def test_a_batch_holds_what_the_service_computes_for_the_same_candidates(tiny_recipe, searches, tmp_path):
    recipe = tiny_recipe(searches, COMPARED)
    data = open_data(recipe, tmp_path / "cache")
    compared = ComparedColumns.of(recipe.features)
    lengths = searches["items"].set_index("item_id").length
    for part in ("train", "test"):
        batches = list(ordered_batches(data, part, 97))
        got = np.concatenate([batch["item_within"].numpy() for batch in batches])
        requests = np.asarray(data.parts[part].request)
        several = 0
        for request in np.unique(requests):
            places = np.flatnonzero(requests == request)
            numerics = data.item_numerics[np.asarray(data.parts[part].item)[places]]
            assert set(numerics[:, 0][~np.isnan(numerics[:, 0])]) <= set(lengths.dropna())
            assert got[places].tobytes() == within_request(compared, numerics).tobytes()
            several += len(places) > 1
        assert several > 10
    assert data.encoding.numerics["within"].mean.shape == (2,)


def test_without_requests_there_is_nothing_to_compare_with():
    with pytest.raises(RecipeError, match=r"'length' has within_request, which needs data\.request_id"):
        parse_recipe(merged(RECIPE, {"data.dir": "x", "features.item": ITEM}), "the test")


def test_a_request_in_two_parts_is_refused(tiny_recipe, searches, tmp_path):
    searches["impressions"]["search"] = searches["impressions"].user_id % 7
    with pytest.raises(RecipeError, match="requests .* lie in both the train and the validation part"):
        open_data(tiny_recipe(searches, COMPARED), tmp_path / "cache")


def test_other_impressions_of_the_table_change_nothing(tiny_recipe, searches, tmp_path):
    """The order of the table does not matter: requests need not be adjacent."""
    first = open_data(tiny_recipe(searches, COMPARED), tmp_path / "cache").parts["test"]
    searches["impressions"] = searches["impressions"].sample(frac=1, random_state=1)
    second = open_data(tiny_recipe(searches, COMPARED), tmp_path / "cache").parts["test"]
    keys = [np.lexsort((part.within[:, 0], part.item, part.time, part.request)) for part in (first, second)]
    assert first.within[keys[0]].tobytes() == second.within[keys[1]].tobytes()
