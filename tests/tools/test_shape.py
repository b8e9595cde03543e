"""Tests the code's shape: file sizes, width, one assignment per line, one meaning per class name, no cycles."""

from pathlib import Path

import pytest

from tools.shape import (
    CORE,
    Source,
    attributes,
    doubled_classes,
    import_cycles,
    long_files,
    long_scripts,
    many_attributes,
    packed_assignments,
    report,
    sources,
    wide_lines,
)


@pytest.fixture(scope="module")
def code() -> list[Source]:
    return sources()


def test_no_file_is_over_250_lines(code: list[Source]) -> None:
    assert long_files(code) == {}
    assert long_scripts() == {}


def test_no_class_name_has_two_meanings(code: list[Source]) -> None:
    assert doubled_classes(code) == {}


def test_every_assignment_has_a_line_of_its_own(code: list[Source]) -> None:
    assert packed_assignments(code) == []


def test_no_line_is_over_120_columns(code: list[Source]) -> None:
    assert wide_lines(code) == []


def test_no_module_imports_itself_through_others(code: list[Source]) -> None:
    assert import_cycles(code) == []


def test_no_class_of_the_online_core_has_over_seven_attributes(code: list[Source]) -> None:
    core = [source for source in code if source.path.startswith(CORE)]
    assert len(core) > 30
    assert many_attributes(core) == {}


def test_attributes_are_fields_slots_and_what_methods_assign(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "a.py").write_text(
        "class A:\n    __slots__ = ('a', 'b')\n    c: int\n    def f(self):\n"
        "        self.d, self.e = self.a, 1\n        self.g.h = 1\n        self.i += 1\n"
    )
    assert attributes(sources(("inner",), tmp_path)) == {"inner/a.py:A": set("abcdei")}


def test_what_is_counted_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "a.py").write_text("import inner.b\na, b = 1, 2\nc, d = f()\na, b = b, a\nclass X: ...\n")
    (folder / "b.py").write_text("from inner import a\nclass X: ...\nclass _Y: ...\n" + "x = 1\n" * 250)
    made = sources(("inner",), tmp_path)
    assert packed_assignments(made) == ["inner/a.py:2"]
    assert doubled_classes(made) == {"X": ["inner/a.py", "inner/b.py"]}
    assert long_files(made) == {"inner/b.py": 253}
    scripts = tmp_path / "clients" / "typescript" / "src"
    scripts.mkdir(parents=True)
    (scripts / "a.ts").write_text("let x = 1;\n" * 251)
    (scripts / "b.ts").write_text("let x = 1;\n" * 250)
    pages = tmp_path / "console" / "src" / "pages"
    pages.mkdir(parents=True)
    (pages / "c.tsx").write_text("let x = 1;\n" * 252)
    assert long_scripts(tmp_path) == {"clients/typescript/src/a.ts": 251, "console/src/pages/c.tsx": 252}
    assert import_cycles(made) == [["inner.a", "inner.b"]]
    assert wide_lines(made) == []


def test_the_report_names_every_measure(code: list[Source]) -> None:
    text = "\n".join(report(code))
    for word in (
        "files",
        "functions",
        "per 1000",
        "cycles",
        "over 250",
        "wide",
        "packed",
        "doubled",
        "classes",
        "folders",
    ):
        assert f"\n{word}" in f"\n{text}"
