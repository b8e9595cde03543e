"""Reads YAML strictly: refuses a key that occurs twice, and records the file and line of every value."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Location = tuple[str | int, ...]  # ("tasks", 0, "label"): keys and positions from the document's root
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OCTAL = re.compile("0[0-7]+")
NOT_YAML = "not YAML"  # opens the message about a text that is none
MOST_VALUES = 100_000  # aliases can make a short text stand for a huge document


@dataclass(frozen=True)
class SourcePlace:
    """The location of a value: a file, or the option that set it, and a line from 1 (None if there is no line)."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


class YamlError(ValueError):
    """A text that is not strict YAML. `place` and `location` say where; the message begins with the place."""

    def __init__(self, message: str, place: SourcePlace, location: Location = ()) -> None:
        super().__init__(f"{place}: {message}")
        self.message = message
        self.place = place
        self.location = location


@dataclass(frozen=True)
class YamlDocument:
    """A parsed text: its plain value, the place of every key and list element, and the text of every scalar."""

    value: Any
    source: str
    places: dict[Location, SourcePlace] = field(default_factory=dict)
    scalars: dict[Location, str] = field(default_factory=dict)

    def place_of(self, location: Location) -> SourcePlace:
        """Return the place of the innermost part of a location that the document has; for the root, only the source."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.places:
                return self.places[location[:length]]
        return SourcePlace(self.source)


def read_yaml(path: Path) -> YamlDocument:
    """Read the document in a file. Raises OSError if it cannot be read, and YamlError as `parse_yaml` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise YamlError(f"{NOT_YAML}: {error}", SourcePlace(str(path))) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> YamlDocument:
    """Parse a text; places and messages call it `source`.

    Raises YamlError for text that is not YAML, for a key that occurs twice in one mapping, for a value that contains
    itself, and for more than MOST_VALUES values.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            document = YamlDocument(None, source)
            if root is None:
                return document
            _add(root, (), document, frozenset())
            return YamlDocument(loader.construct_document(root), source, document.places, document.scalars)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise YamlError(f"{NOT_YAML}: {_one_line(error)}", SourcePlace(source, line)) from None
    except RecursionError:
        raise YamlError(f"{NOT_YAML}: nested too deep", SourcePlace(source)) from None


def _one_line(error: yaml.YAMLError) -> str:
    """Return PyYAML's words without its excerpts of the text, which take several lines."""
    if isinstance(error, yaml.MarkedYAMLError):
        words = ", ".join(text for text in (error.context, error.problem) if text)
    else:
        words = str(error)
    return " ".join(words.split())


def _add(node: yaml.Node, location: Location, document: YamlDocument, above: frozenset[int]) -> None:
    """Record the places and scalars at and below a node; `above` are the nodes that contain it."""
    if isinstance(node, yaml.ScalarNode):
        _refuse_surprising_number(node, location, document)
        document.scalars[location] = node.value
        return
    place = SourcePlace(document.source, node.start_mark.line + 1)
    if id(node) in above:
        raise YamlError("this value contains itself", place, location)
    for below, named_by, value in _children(node, location):
        if isinstance(named_by, yaml.ScalarNode):
            _refuse_surprising_number(named_by, below, document)
        if below in document.places:
            name = ".".join(map(str, below))
            at = SourcePlace(document.source, named_by.start_mark.line + 1)
            raise YamlError(f"{name}: this key occurs twice here; only one can count", at, below)
        if len(document.places) >= MOST_VALUES:
            raise YamlError(f"more than {MOST_VALUES:,} values", place, location)
        document.places[below] = SourcePlace(document.source, named_by.start_mark.line + 1)
        _add(value, below, document, above | {id(node)})


def _refuse_surprising_number(node: yaml.ScalarNode, location: Location, document: YamlDocument) -> None:
    """YAML 1.1 takes 010 for 8 and 12:30 for 750, which nobody means. Raises YamlError with what to write."""
    text = node.value
    if node.style is not None or node.tag not in _NUMBERS:
        return
    place = SourcePlace(document.source, node.start_mark.line + 1)
    digits = text.lstrip("+-").replace("_", "")
    if ":" in text:
        raise YamlError(f"{text} without quotes is a number of base 60 in YAML: write '{text}'", place, location)
    if _OCTAL.fullmatch(digits) and int(digits, 8) != int(digits):
        value = yaml.SafeLoader.construct_yaml_int(yaml.SafeLoader(""), node)
        problem = f"{text} without quotes is octal in YAML and means {value}: write '{text}', or {value}"
        raise YamlError(problem, place, location)


def _children(node: yaml.Node, location: Location) -> Iterator[tuple[Location, yaml.Node, yaml.Node]]:
    """Yield for each child its location, the node that gives the line (its key, or itself), and its value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*location, str(key.value)), key, value
    elif isinstance(node, yaml.SequenceNode):
        for i, element in enumerate(node.value):
            yield (*location, i), element, element
