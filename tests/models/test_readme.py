"""Tests models/README.md: the files, folders and classes that it names exist."""

import re
from pathlib import Path

from models.encoders.base import Encoder, EncoderOptions
from models.kinds import KINDS, TaskKind
from models.structures.base import TaskOptions, TaskStructure
from models.trunks.base import Trunk, TrunkInput, TrunkOptions, TrunkSpec

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "models" / "README.md").read_text()
NAMED = (Encoder, EncoderOptions, TaskKind, TaskOptions, TaskStructure, Trunk, TrunkInput, TrunkOptions, TrunkSpec)


def test_the_files_and_folders_that_it_names_are_there():
    paths = [path for path in re.findall(r"`([a-z_/]+(?:\.py|/))`", TEXT) if "NAME" not in path]
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "models" / path).exists(), path


def test_every_package_of_the_folder_is_in_its_table():
    packages = {path.parent.name for path in (ROOT / "models").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"`([a-z_]+)/`", TEXT))


def test_the_classes_that_a_model_and_a_kind_are_made_of_are_named():
    assert KINDS
    for named in NAMED:
        assert f"`{named.__name__}" in TEXT or f"({named.__name__})`" in TEXT, named
