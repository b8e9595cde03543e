"""Shortens the errors of object stores to one line without secrets.

It is in this package because services, training and the log's reader open object stores, and everybody may import it.
"""

import re
from typing import Final

_MOST_CHARACTERS: Final = 300
# Stores repeat credentials in the bodies of their answers: S3 the session token (Token-0), the key's id and what was
# signed. Of a body only its code is shown, such as ExpiredToken or SlowDown.
_BODY: Final = re.compile(r"(Server returned (?:non-2xx status code: [^:]*|error response)): (.*)", re.DOTALL)
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")
# What the client library says of a name in a list that it cannot read, such as `prefix//a`.
_UNREADABLE_NAME: Final = "Encountered object with invalid path"
# The query of an address may be its signature.
_QUERY: Final = re.compile(r"(https?://[^\s?\"')]*)\?[^\s\"')]*")


def in_one_line(error: Exception) -> str:
    """Return the message of an object store's error: no bodies, no queries, nothing for programmers of the library."""
    text = str(error).partition("Debug source:")[0]
    text = _QUERY.sub(r"\1", _BODY.sub(_with_code, text))
    advice = "; rename or remove the object" if _UNREADABLE_NAME in text else ""
    return " ".join(text.split())[:_MOST_CHARACTERS] + advice


def _with_code(match: re.Match[str]) -> str:
    code = _CODE.search(match[2])
    return match[1] if code is None else f"{match[1]} ({code[1]})"
