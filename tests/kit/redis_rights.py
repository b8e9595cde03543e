"""Reads from the docs which rights a user of Redis needs."""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def rights(before: str) -> list[str]:
    """The rights that the page lists after some words."""
    listed = re.search(rf"{before}\s+`([^`]+)`", _PAGE.read_text())
    assert listed is not None, before
    return listed[1].split()
