"""Owns `python -m models.list`: one line per model."""

import argparse

from models.catalogue import CATALOGUE


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.list",
        description="List the models of the catalogue: name, paper, tasks it can have.",
        epilog="example: python -m models.list",
    )
    parser.parse_args()
    width = max(len(name) for name in CATALOGUE)
    for entry in CATALOGUE.values():
        print(f"{entry.name:<{width}}  {entry.paper}  {entry.link}  tasks: {', '.join(entry.tasks)}")


if __name__ == "__main__":
    main()
