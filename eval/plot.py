"""Draws accuracy by question type of several evaluations, with 95 % intervals: plot.py FILE NAME=FOLDER ..."""

import argparse
import sys
from pathlib import Path

from moka.evaluation import EvaluationError, load_results
from moka.evaluation.plot import plot_accuracy


def main() -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="picture to write: .svg, .png or .pdf")
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="legend entry and output folder of evaluate.py")
    arguments = parser.parse_args()
    runs = dict(_named(run) for run in arguments.runs)
    if len(runs) < len(arguments.runs):
        sys.exit("error: two runs have the same name")
    try:
        plot_accuracy({name: load_results(folder / "results.json") for name, folder in runs.items()}, arguments.file)
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} does not exist; give output folders of evaluate.py")
    except (EvaluationError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"Wrote {arguments.file}")


def _named(run: str) -> tuple[str, Path]:
    name, equals, folder = run.partition("=")
    if not (name and equals and folder):
        sys.exit(f"error: {run!r} must be NAME=FOLDER, such as MokA=runs/demo/moka/test")
    return name, Path(folder)


if __name__ == "__main__":
    main()
