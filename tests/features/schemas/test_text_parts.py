"""Tests categories that are a part of a text: one cut for tables, rows and requests, before the hash."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from features import Categorical, FeatureSchema, RowLayout, key_of
from features.layouts import Layouts
from features.schemas.text_parts import UrlPart

PREFIX = {"type": "prefix", "characters": 3}
URLS = {
    "https://Shop.Example:8080/books/7?page=2#top": ("shop.example", "/books/7", "books"),
    "//shop.example": ("shop.example", "", ""),
    "shop.example/books": ("shop.example", "/books", "books"),
    " http://user:word@shop.example/ ": ("shop.example", "/", ""),
    "/books/7": ("", "/books/7", "books"),
    "http://[2001:db8::1]:80/a": ("[2001:db8::1]", "/a", "a"),
    "http://shop.example?x=http://other/": ("shop.example", "", ""),
    "HTTPS://SHOP.EXAMPLE/Books": ("shop.example", "/Books", "Books"),
    "?page=2": ("", "", ""),
    "": ("", "", ""),
}
"""Parts of URLs: host, path, first segment."""


def feature(text, name="link"):
    return Categorical.model_validate({"name": name, "type": "categorical", "text": text})


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(("place", "part"), list(enumerate(("host", "path", "first_segment"))))
def test_a_part_of_a_url(url, place, part):
    assert UrlPart(type="url", part=part).of(url) == URLS[url][place]


@given(st.text(max_size=60))
def test_any_text_has_parts(text):
    for part in ("host", "path", "first_segment"):
        cut = UrlPart(type="url", part=part).of(text)
        assert len(cut) <= 2 * len(text)


@pytest.mark.parametrize(
    ("text", "value", "category"),
    [
        (PREFIX, "abcdef", "abc"),
        (PREFIX, "ab", "ab"),
        (PREFIX, 12345, "123"),
        (PREFIX, 12345.0, "123"),
        (PREFIX, "Zürich", "Zür"),
        ({"type": "url", "part": "host"}, "https://a.example/x", "a.example"),
        ({"type": "url", "part": "host"}, "/x", None),
        (PREFIX, None, None),
        (PREFIX, float("nan"), None),
        (None, "abcdef", "abcdef"),
    ],
)
def test_every_way_into_a_row_hashes_the_part(text, value, category):
    """The key of a row that is packed alone, and of a column, is that of the category."""
    layout = RowLayout([feature(text)])
    expected = key_of("link", category)
    alone = layout.rows(layout.pack({"link": value}, nan_is_missing=True))["keys"]
    column = np.array([value, value], dtype=object)
    assert alone.tolist() == [[expected]]
    assert layout.pack_columns({"link": column}, 2)["keys"].tolist() == [[expected]] * 2


def test_a_column_of_integers_is_cut_too():
    layout = RowLayout([feature(PREFIX)])
    keys = layout.pack_columns({"link": np.array([12345, 12399, 7])}, 3)["keys"][:, 0]
    assert keys.tolist() == [key_of("link", "123"), key_of("link", "123"), key_of("link", "7")]


def test_the_fingerprint_holds_the_part_if_there_is_one():
    def fingerprints(text):
        link = {"name": "link", "type": "categorical"} | ({} if text is None else {"text": text})
        layouts = Layouts.of(FeatureSchema.model_validate({"item": [link], "candidate": [link | {"name": "source"}]}))
        return layouts.fingerprint, layouts.inputs_fingerprint

    every = [fingerprints(text) for text in (None, PREFIX, PREFIX | {"characters": 4}, {"type": "url", "part": "host"})]
    assert len({fingerprint for fingerprint, _ in every}) == 4
    plain = Categorical(name="link", type="categorical")
    assert "text" not in plain.model_dump()
    # Rows that are in a store today keep their name.
    assert fingerprints(None)[0] == "7cb1c1ea449fb8a7"


@pytest.mark.parametrize(
    "text", [{"type": "suffix"}, {"type": "prefix", "characters": 0}, {"type": "url", "part": "query"}, "prefix"]
)
def test_an_unknown_part_is_refused(text):
    with pytest.raises(ValidationError):
        feature(text)
