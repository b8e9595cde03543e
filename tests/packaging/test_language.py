"""Tests that the code and the docs keep to plain language: names, first lines, phrases, comments.

CONTRIBUTING.md gives the rules. The changelog is left out, since it quotes older versions.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tools.shape import PACKAGES

ROOT = Path(__file__).parents[2]
CODE = sorted(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")]
    if page.name != "CHANGELOG.md"
)

# A name says what a value is. These names say what happened to it, or nothing.
NAMES_TO_AVOID = frozenset(
    {
        "found",
        "told",
        "kept",
        "wanted",
        "gone",
        "came",
        "said",
        "mine",
        "which",
        "everything",
        "hist",
        "seq",
        "y_pred",
        "params",
        "utils",
        "helpers",
        "manager",
        "artifact",
    }
)
# Figures of speech, each with a replacement.
PHRASES = {
    r"\bowns\b": "holds, checks, schedules: the verb of what it does",
    r"\bthe doubts about\b": "the checks of",
    r"\bwhose turn it is\b": "schedules in FIFO order",
    r"\bfirst come,? first served\b": "in FIFO order",
    r"\band a word in\b": "and records a reason in",
    r"\b(?:in|within) its time\b": "before the deadline",
    r"\bpass(?:es|ed)? the (?:web )?framework by\b": "bypasses FastAPI",
    r"\b(?:is|are) never judged\b": "skips the gate",
    r"\bstands? (?:twice|beside)\b": "occurs twice, is listed with",
    r"\bheld before\b|\bholds? again\b": "the earlier state, restore",
    r"\bPromises? (?:of|about)\b": "Tests",
    r"\ball the same\b": "anyway",
    r"\bno matter of\b": "does not depend on",
}


def named_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and name of everything that a file names itself; names of libraries are only read or passed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname is not None:
            yield node.lineno, node.asname


def comments_of(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def docstrings_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


@cache
def prose() -> list[tuple[str, str]]:
    """Every docstring, comment and line of a page, with its place."""
    parts = []
    for path in CODE:
        text = path.read_text()
        place = path.relative_to(ROOT)
        parts += [(f"{place}:{line}", part) for line, part in docstrings_of(ast.parse(text))]
        parts += [(f"{place}:{line}", part) for line, part in comments_of(text)]
    for page in PAGES:
        lines = enumerate(page.read_text().splitlines(), 1)
        parts += [(f"{page.relative_to(ROOT)}:{line}", part) for line, part in lines]
    return parts


def test_names_say_what_a_value_is() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in CODE
        for line, name in named_in(ast.parse(path.read_text()))
        if name in NAMES_TO_AVOID
    ]
    assert named == []
    assert [str(path) for path in CODE if path.stem in NAMES_TO_AVOID] == []


def test_every_file_begins_with_a_sentence_that_says_what_it_holds() -> None:
    for path in CODE:
        text = path.read_text()
        first = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        assert not first.startswith("Owns"), path
        assert first or not text.strip(), f"{path} has no docstring"


@pytest.mark.parametrize("phrase", PHRASES)
def test_prose_has_no_figures_of_speech(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    places = [place for place, part in prose() if pattern.search(part)]
    assert places == [], f"write: {PHRASES[phrase]}"


def test_code_is_explained_by_comments() -> None:
    """At least 15 comments in 1000 lines of the packages."""
    texts = [path.read_text() for path in CODE if path.relative_to(ROOT).parts[0] != "tests"]
    comments = sum(1 for text in texts for _ in comments_of(text))
    lines = sum(len(text.splitlines()) for text in texts)
    assert comments * 1000 >= 15 * lines, f"{comments} comments in {lines} lines"
