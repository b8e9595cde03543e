"""Tests the sentence about the part of a ranking's cost that no brown-out saves."""

from bench.brownout import floor_line


def test_the_floor_is_what_the_model_leaves() -> None:
    line = floor_line(4.0, 3.0)
    assert "the floor is 1.000 ms" in line and "more than 4.00 times the rate" in line


def test_a_model_that_measured_dearer_than_its_rankings_gives_no_floor() -> None:
    assert floor_line(5.9, 6.8).endswith("too noisy for a floor; run it again on a quiet machine")
