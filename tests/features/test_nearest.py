"""Tests the nearest known name: what it is, and that a long or foreign name costs little."""

from features.nearest import near_names, nearest


def test_a_misspelt_name_is_told_with_the_nearest_one():
    assert nearest("prcie", ["item_id", "price", "prize_money"]) == "; did you mean 'price'?"


def test_a_name_that_differs_in_case_alone_is_the_nearest():
    assert nearest("PRICE", ["prices", "price"]) == "; did you mean 'price'?"
    assert near_names("Tab", ["tabs", "TAB", "tab"], count=2) == ["TAB", "tab"]


def test_a_name_that_resembles_none_is_told_with_all_of_them():
    assert nearest("weather", ["tab", "hour"]) == "; known: tab, hour"
    assert nearest("plike", ["pctr", "pcvr"], "it has") == "; it has pctr, pcvr"
    assert nearest("weather", []) == "; known: none"


def test_of_many_names_the_first_are_shown_with_the_number_of_the_others():
    message = nearest("???", [f"feature_{i}" for i in range(80)])
    assert message.startswith("; known: feature_0, feature_1, ")
    assert message.endswith(", feature_49 and 30 more")


def test_a_long_name_is_compared_by_its_beginning():
    # A caller may send a name of megabytes: comparing it whole would hold a worker for seconds.
    assert nearest("price" + "x" * 2_000_000, ["price"]) == "; known: price"
