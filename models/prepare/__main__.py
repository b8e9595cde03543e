"""Owns the command `python -m models.prepare`."""

import argparse
import sys
from pathlib import Path

from models.prepare.census import prepare_census
from models.prepare.kuairand import prepare_kuairand
from models.prepare.sample import sample_tables
from models.prepare.taobao import prepare_taobao

EXAMPLE = """example:
  python -m models.prepare kuairand --source DOWNLOADS/kuairand --out data/kuairand
  python -m models.prepare census --source DOWNLOADS/census --out data/census
  python -m models.prepare taobao --source DOWNLOADS/taobao --out data/taobao
  python -m models.prepare sample --source data/kuairand --out sample/kuairand
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.prepare",
        description="Turns original data files into the canonical tables (parquet) that training and the Redis loader read.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("kuairand", "KuaiRand-Pure"),
        ("census", "Census-Income (KDD)"),
        ("taobao", "Taobao's UserBehavior"),
    ):
        command = commands.add_parser(name, help=f"{what}: original files -> canonical tables")
        command.add_argument("--source", type=Path, required=True, help="folder of the original files")
        command.add_argument("--out", type=Path, required=True, help="folder to write the tables to")
    command = commands.add_parser("sample", help="canonical tables -> a seeded subset of whole users that fits a size")
    command.add_argument(
        "--source", type=Path, default=Path("data/kuairand"), help="folder of the tables (default: %(default)s)"
    )
    command.add_argument(
        "--out", type=Path, default=Path("sample/kuairand"), help="folder to write to (default: %(default)s)"
    )
    command.add_argument(
        "--max-mb", type=float, default=7.5, help="largest total size of the parquet files in MB (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=1, help="seed of the choice of users (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        if given.command == "kuairand":
            rows = prepare_kuairand(given.source, given.out)
        elif given.command == "census":
            rows = prepare_census(given.source, given.out)
        elif given.command == "taobao":
            rows = prepare_taobao(given.source, given.out)
        else:
            rows = sample_tables(given.source, given.out, int(given.max_mb * 1e6), given.seed)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, count in rows.items():
        path = given.out / f"{name}.parquet"
        print(f"{path}: {count:,} rows, {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
