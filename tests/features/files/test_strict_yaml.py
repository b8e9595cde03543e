"""Tests the strict YAML reader: values equal those of the YAML library; places are right; faults are refused."""

import pytest
import yaml

from features.files.strict_yaml import SourcePlace, YamlError, parse_yaml, read_yaml

TEXT = """\
name: tiny
tasks:
  - {type: esmm, click: click}
  - type: independent
    label: like
training: {epochs: 2}
"""


def test_the_value_is_the_one_that_the_library_reads():
    assert parse_yaml(TEXT, "r.yaml").value == yaml.safe_load(TEXT)


def test_an_empty_text_has_no_value():
    assert parse_yaml("", "r.yaml").value is None


def test_each_key_and_element_knows_its_line():
    document = parse_yaml(TEXT, "r.yaml")
    assert document.places["tasks", 1, "label"] == SourcePlace("r.yaml", 5)
    assert str(document.place_of(("tasks", 0, "click"))) == "r.yaml:3"
    assert document.scalars["training", "epochs"] == "2"


def test_an_unknown_location_has_the_place_of_its_innermost_known_part():
    document = parse_yaml(TEXT, "r.yaml")
    assert str(document.place_of(("tasks", 1, "space"))) == "r.yaml:4"
    assert str(document.place_of(("model",))) == "r.yaml"


@pytest.mark.parametrize(
    ("text", "line", "location"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, ("a",)),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, ("a", "b")),
        ("- a: 1\n- {b: 1, b: 2}\n", 2, (1, "b")),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_place(text, line, location):
    with pytest.raises(YamlError, match="this key occurs twice here") as refused:
        parse_yaml(text, "r.yaml")
    assert refused.value.place == SourcePlace("r.yaml", line)
    assert refused.value.location == location


def test_the_same_key_may_stand_in_two_mappings():
    assert parse_yaml("a: {x: 1}\nb: {x: 2}\n", "r.yaml").value == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "r.yaml:.*not YAML"),
        ("a: !!python/object:os.system {}\n", "not YAML"),
        ("a:\n\tb: 1\n", r"^r.yaml:2: not YAML: [^\n]*'\\t' that cannot start any token$"),
        ("a: 1\n---\nb: 2\n", r"^r.yaml:2: not YAML: expected a single document[^\n]*$"),
        ("? [a, b]\n: 1\n", r"^r.yaml:1: not YAML: while constructing a mapping, found unhashable key$"),
        ("a: *b\n", r"^r.yaml:1: not YAML: found undefined alias 'b'$"),
        ("a: \x07\n", r"^r.yaml: not YAML: unacceptable character [^\n]*$"),
        ("a: &a [*a]\n", "r.yaml:1: this value contains itself"),
        ("[" * 5000, "not YAML"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
            "more than 100,000 values",
        ),
    ],
)
def test_a_text_that_is_no_strict_yaml_is_refused(text, message):
    with pytest.raises(YamlError, match=message):
        parse_yaml(text, "r.yaml")


def test_a_file_is_read_and_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(YamlError, match=r"r\.yaml:2: a: this key occurs twice here"):
        read_yaml(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(YamlError, match="not YAML"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 010", "r.yaml:1: 010 without quotes is octal in YAML and means 8: write '010', or 8"),
        ("b: 1\na: [1, -0_17]", "r.yaml:2: -0_17 without quotes is octal in YAML and means -15: write '-0_17', or -15"),
        ("0430: x", "r.yaml:1: 0430 without quotes is octal in YAML and means 280: write '0430', or 280"),
        ("a: 12:30", "r.yaml:1: 12:30 without quotes is a number of base 60 in YAML: write '12:30'"),
        ("a: 1:30.5", "r.yaml:1: 1:30.5 without quotes is a number of base 60 in YAML: write '1:30.5'"),
    ],
)
def test_a_number_that_yaml_reads_as_another_one_is_refused(text, message):
    with pytest.raises(YamlError) as error:
        parse_yaml(text, "r.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["a: '010'", 'a: "12:30"', "a: 0", "a: 07", "a: 089", "a: 0x10", "a: 0.10", "a: 00"])
def test_a_number_that_reads_the_same_in_every_base_is_read(text):
    assert parse_yaml(text, "r.yaml").value == yaml.safe_load(text)
