"""Holds the error of a recipe that cannot be used, and the suggestion of the nearest valid name."""

import difflib
from collections.abc import Collection


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the place (if `placed`, with file and line) and what would be right."""

    placed = False


def nearest(name: object, known: Collection[str]) -> str:
    """What a message about an unknown name ends with: `; did you mean 'mmoe'?`, or all that are known."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known) or 'none'}"
