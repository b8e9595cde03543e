"""Converts the original files of Census-Income (KDD) to the canonical tables.

Source: UCI Machine Learning Repository, Census-Income (KDD), CC BY 4.0. The set-up is that of the MMoE paper (Ma et
al., KDD 2018, section 6.1): the given train file, and the given test file split 1:1 into validation and test. The
source column of a label is not an input: marital status and income never are, education only if `college` is not
predicted, which the recipes ensure. There are no lists to rank: every person is an item, shown once to one and the same
user.
"""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from models.prepare.original import as_table_error
from models.prepare.write import write_table

TRAIN = "census-income.data.gz"
TEST = "census-income.test.gz"
DESCRIPTION = "census-income.names"
SPLIT_SEED = 2024
MISSING = "?"  # and nothing else: `NA` is a Hispanic origin, `Not in universe` an answer
COLLEGE = (
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)

COLUMNS = (
    "age",
    "class_of_worker",
    "industry_code",
    "occupation_code",
    "education",
    "wage_per_hour",
    "enrolled_last_week",
    "marital_status",
    "major_industry",
    "major_occupation",
    "race",
    "hispanic_origin",
    "sex",
    "union_member",
    "unemployment_reason",
    "employment_status",
    "capital_gains",
    "capital_losses",
    "dividends",
    "tax_filer",
    "previous_region",
    "previous_state",
    "household_detail",
    "household_summary",
    "instance_weight",
    "migration_msa",
    "migration_region",
    "migration_within_region",
    "same_house",
    "migration_sunbelt",
    "employer_size",
    "family_under_18",
    "father_country",
    "mother_country",
    "own_country",
    "citizenship",
    "self_employed",
    "veteran_questionnaire",
    "veteran_benefits",
    "weeks_worked",
    "year",
    "income",
)
NUMERICS = ("age", "wage_per_hour", "capital_gains", "capital_losses", "dividends", "employer_size", "weeks_worked")
NOT_FEATURES = ("marital_status", "instance_weight", "income")


def prepare_census(source: Path, out: Path) -> dict[str, int]:
    """Write items and impressions under `out`; return the number of rows of each. Raises FileNotFoundError."""
    train = read_census(source / TRAIN)
    test = read_census(source / TEST)
    # The test file is split in halves by a fixed seed.
    people = pd.concat([train, test], ignore_index=True)
    people.insert(0, "item_id", np.arange(len(people), dtype=np.int32))
    part = np.full(len(people), "train", dtype=object)
    shuffled = len(train) + np.random.default_rng(SPLIT_SEED).permutation(len(test))
    half = len(test) // 2
    part[shuffled[:half]] = "validation"
    part[shuffled[half:]] = "test"
    # Every person is an item, shown once to one and the same user at no known time.
    impressions = pd.DataFrame(
        {
            "user_id": np.zeros(len(people), dtype=np.int8),
            "item_id": people["item_id"],
            "time_ms": np.zeros(len(people), dtype=np.int64),
            "part": part,
            "income_50k": (people["income"] == "50000+.").astype(np.int8),
            "never_married": (people["marital_status"] == "Never married").astype(np.int8),
            "college": people["education"].isin(COLLEGE).astype(np.int8),
        }
    )
    items = people.drop(columns=list(NOT_FEATURES))
    write_table(pa.Table.from_pandas(items, preserve_index=False), out / "items.parquet", delta=("item_id",))
    write_table(
        pa.Table.from_pandas(impressions, preserve_index=False), out / "impressions.parquet", delta=("item_id",)
    )
    shutil.copyfile(source / DESCRIPTION, out / DESCRIPTION)
    return {"items": len(items), "impressions": len(impressions)}


def read_census(path: Path) -> pd.DataFrame:
    """Read one of the two files: every category as text, `?` as missing, numerics as float32."""
    with as_table_error(path), gzip.open(path, "rt") as lines:
        rows = pd.read_csv(
            lines, header=None, names=list(COLUMNS), sep=",", skipinitialspace=True, dtype=str, keep_default_na=False
        )
    if len(rows) and rows["income"].eq("").any():
        raise ValueError(f"{path}: a line has fewer than {len(COLUMNS)} columns")
    for name in rows.columns:
        rows[name] = rows[name].str.strip()
        rows[name] = rows[name].mask(rows[name] == MISSING)
    for name in NUMERICS:
        rows[name] = rows[name].astype(np.float32)
    return rows
