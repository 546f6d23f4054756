"""Bars of accuracy by question type; needs the `plots` extra."""

import math
from collections.abc import Mapping
from pathlib import Path

from moka.evaluation.errors import EvaluationError
from moka.evaluation.report import NO_TYPE, refuse_other_questions
from moka.evaluation.results import Results, Tally

_INCHES_PER_TYPE = 1.1
_Z95 = 1.959964


def wilson_interval(tally: Tally) -> tuple[float, float]:
    """Returns the 95 % interval of an accuracy in percent (Wilson 1927), as if the answers were independent.

    Args:
        tally: Correct answers out of those counted.

    Raises:
        ValueError: Nothing was counted.
    """
    if not tally.total:
        raise ValueError("no answers were counted")
    share, z2 = tally.correct / tally.total, _Z95**2 / tally.total
    centre = share + z2 / 2
    spread = _Z95 * math.sqrt(share * (1 - share) / tally.total + z2 / (4 * tally.total))
    return 100 * max(0.0, (centre - spread) / (1 + z2)), 100 * min(1.0, (centre + spread) / (1 + z2))


def plot_accuracy(results: Mapping[str, Results], file: str | Path) -> None:
    """Draws the accuracy of several runs by question type, standard protocol, with 95 % Wilson intervals.

    Args:
        results: Legend entry -> that run's results, all on the same questions.
        file: Where to write; its ending (.svg, .png, .pdf) says the format.

    Raises:
        EvaluationError: matplotlib is not installed, or cannot write such a file.
        ValueError: The runs did not answer the same number of questions of each type.
    """
    try:
        from matplotlib.figure import Figure  # an extra, and slow to import
    except ImportError as error:
        raise EvaluationError('plots need matplotlib: pip install -e ".[plots]"') from error
    refuse_other_questions(results)
    first = next(iter(results.values()))
    types = [name for name, tally in first.standard.by_type.items() if tally.total]
    figure = Figure(figsize=(2 + _INCHES_PER_TYPE * (len(types) + 1), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    for index, (title, run) in enumerate(results.items()):
        tallies = [*(run.standard.by_type[name] for name in types), run.standard.overall]
        heights = [tally.accuracy or 0.0 for tally in tallies]
        bounds = [wilson_interval(tally) for tally in tallies]
        below = [max(0.0, height - low) for height, (low, _) in zip(heights, bounds, strict=True)]
        above = [max(0.0, high - height) for height, (_, high) in zip(heights, bounds, strict=True)]
        places = [place - 0.4 + (index + 0.5) * width for place in range(len(tallies))]
        axes.bar(places, heights, width, yerr=[below, above], label=title, error_kw={"elinewidth": 0.8})
    axes.set_xticks(range(len(types) + 1), [*((name or NO_TYPE).replace("/", "/\n") for name in types), "Overall"])
    axes.tick_params(axis="x", labelsize="small")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.legend(ncols=len(results), loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    try:
        figure.savefig(file)
    except ValueError as error:
        raise EvaluationError(f"{file}: {error}") from error
