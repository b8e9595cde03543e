"""Cuts a part out of a categorical value before it is hashed: its first characters, or a part of a URL."""

import re
from typing import Annotated, Literal

from pydantic import Field

from features.schemas.strict_model import SchemaPart

# Scheme, host with user and port, path; a query and a fragment follow. RFC 3986, appendix B, with a scheme optional.
_URL = re.compile(r"(?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#]*)|([^/?#]*))([^?#]*)")
_PORT = re.compile(r":[0-9]*$")


class TextPrefix(SchemaPart):
    """The first `characters` of the value, such as the month of `2022-05-01` or the region of a postal code."""

    type: Literal["prefix"]
    characters: Annotated[int, Field(ge=1, le=512)]

    def of(self, text: str) -> str:
        """The prefix of a text."""
        return text[: self.characters]


class UrlPart(SchemaPart):
    """A part of a URL: its `host` in lower case without user and port, its `path`, or the `first_segment` of the path.

    `shop.example/books/7?page=2` needs no scheme: `shop.example`, `/books/7` and `books`. A part that the URL lacks is
    missing.
    """

    type: Literal["url"]
    part: Literal["host", "path", "first_segment"]

    def of(self, text: str) -> str:
        """The part of a URL; empty if it has none."""
        match = _URL.match(text.strip())
        assert match is not None  # every group may be empty
        host = match[1] if match[1] is not None else match[2]
        path = match[3]
        if self.part == "host":
            return _PORT.sub("", host.rpartition("@")[2]).lower()
        return path if self.part == "path" else path.removeprefix("/").partition("/")[0]


TextPart = Annotated[TextPrefix | UrlPart, Field(discriminator="type")]
