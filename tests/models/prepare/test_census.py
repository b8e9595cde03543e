"""Tests the census tables: the paper's split and inputs; a category has the same meaning in both files."""

import gzip

import pandas as pd
import pytest

from funnelrank.main import main
from models.prepare.census import COLUMNS, DESCRIPTION, TEST, TRAIN, prepare_census

PERSON = dict.fromkeys(COLUMNS, "x") | dict.fromkeys(
    ("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends"), "7"
)
PERSON |= {"employer_size": "2", "weeks_worked": "52", "instance_weight": "1700.09", "income": "- 50000."}


def line(**changes):
    return ", ".join((PERSON | changes)[name] for name in COLUMNS)


@pytest.fixture
def tables(tmp_path):
    source = tmp_path / "original"
    source.mkdir()
    train = [line(hispanic_origin="NA", migration_msa="?"), line(income="50000+.", marital_status="Never married")]
    test = [line(hispanic_origin="NA", education="Doctorate degree(PhD EdD)") for _ in range(10)]
    for name, lines in ((TRAIN, train), (TEST, test)):
        with gzip.open(source / name, "wt") as file:
            file.write("\n".join(lines) + "\n")
    (source / DESCRIPTION).write_text("about")
    prepare_census(source, tmp_path / "out")
    return {path.stem: pd.read_parquet(path) for path in (tmp_path / "out").glob("*.parquet")}


def test_na_is_a_hispanic_origin_and_only_the_question_mark_is_missing(tables):
    items = tables["items"].set_index("item_id")
    assert items.hispanic_origin[0] == "NA"
    assert pd.isna(items.migration_msa[0])
    assert items.isna().sum().sum() == 1


def test_categories_are_the_same_text_in_both_files(tables):
    items = tables["items"]
    assert items.hispanic_origin[0] == items.hispanic_origin[11] == "NA"
    assert items.age[0] == items.age[11] == 7.0


def test_labels_and_the_weight_are_no_features(tables):
    assert not {"marital_status", "instance_weight", "income"} & set(tables["items"].columns)
    impressions = tables["impressions"].set_index("item_id")
    assert impressions.loc[[0, 1], ["income_50k", "never_married", "college"]].to_numpy().tolist() == [
        [0, 0, 0],
        [1, 1, 0],
    ]
    assert impressions.college[5] == 1


def test_the_test_file_is_split_in_halves_by_a_fixed_seed(tables):
    parts = tables["impressions"].set_index("item_id").part
    assert (parts[[0, 1]] == "train").all()
    assert parts.value_counts().to_dict() == {"validation": 5, "test": 5, "train": 2}
    assert parts[parts == "validation"].index.tolist() == SPLIT


SPLIT = [2, 4, 5, 7, 11]


def test_an_original_that_cannot_be_read_is_told_in_one_line(tmp_path, capsys):
    command = ["prepare", "census", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
    (tmp_path / TRAIN).write_bytes(b"no gzip")
    assert main(command) == 1
    assert f"{TRAIN} (original): cannot be read" in capsys.readouterr().err
    (tmp_path / TRAIN).write_bytes(gzip.compress(b"0, 1, 2\n")[:-9])
    assert main(command) == 1
    assert f"{TRAIN} (original): cannot be read" in capsys.readouterr().err
