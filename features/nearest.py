"""Ends a message about an unknown name with the known name that is nearest, or with all known names."""

from collections.abc import Collection
from difflib import get_close_matches
from itertools import islice

_MOST_CHARACTERS = 100  # of the unknown name: comparing takes time in proportion to its length
_MOST_COMPARED = 1000
_MOST_SHOWN = 50


def near_names(name: object, known: Collection[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return at most `count` of the known names that resemble `name`, most similar first.

    A name that differs in upper and lower case alone comes first, whatever the `cutoff` is.
    """
    text = str(name)[:_MOST_CHARACTERS]
    compared = list(islice(known, _MOST_COMPARED))
    same = [word for word in compared if word.casefold() == text.casefold()]
    close = get_close_matches(text, compared, n=count, cutoff=cutoff)
    return list(dict.fromkeys([*same, *close]))[:count]


def nearest(name: object, known: Collection[str], has: str = "known:") -> str:
    """Return the end of a message about an unknown name: `; did you mean 'mmoe'?`, or all known names."""
    close = near_names(name, known)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(known) - _MOST_SHOWN:,} more" if len(known) > _MOST_SHOWN else ""
    return f"; {has} {', '.join(islice(known, _MOST_SHOWN)) or 'none'}{more}"
