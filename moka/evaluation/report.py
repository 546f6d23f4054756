"""Tables of accuracy by question type, as plain text or Markdown."""

from collections.abc import Mapping, Sequence
from typing import Literal

from moka.evaluation.results import Results, Tally

NO_TYPE = "(no type)"


def results_table(results: Results, *, markdown: bool = False) -> str:
    """Returns one run's table: a line a question type, with the accuracy under both protocols.

    Args:
        results: What a scorer returned.
        markdown: Whether to draw a Markdown table instead of plain text.
    """
    header = ["Question type", "Correct", "Questions", "Accuracy", "Unparsed", "Accuracy (protocol moka)"]
    lines = [[name or NO_TYPE, *_line(tally, results.moka.by_type[name])] for name, tally in _types(results)]
    lines.append(["Overall", *_line(results.standard.overall, results.moka.overall)])
    return draw(header, lines, markdown=markdown)


def comparison_table(
    results: Mapping[str, Results], *, protocol: Literal["standard", "moka"] = "standard", markdown: bool = False
) -> str:
    """Returns a table of several runs' accuracy in percent: a line a question type, a column a run.

    Args:
        results: Column title -> that run's results, all on the same questions.
        protocol: Which accuracy is shown.
        markdown: Whether to draw a Markdown table instead of plain text.

    Raises:
        ValueError: The runs did not answer the same number of questions of each type.
    """
    refuse_other_questions(results)
    accuracies = [getattr(run, protocol) for run in results.values()]
    lines = [
        [name or NO_TYPE, *(_percent(accuracy.by_type[name]) for accuracy in accuracies)]
        for name, _ in _types(next(iter(results.values())))
    ]
    lines.append(["Overall", *(_percent(accuracy.overall) for accuracy in accuracies)])
    return draw(["Question type", *results], lines, markdown=markdown)


def refuse_other_questions(results: Mapping[str, Results]) -> None:
    """Raises a ValueError unless all runs answered the same number of questions of each type."""
    counts = {name: {key: tally.total for key, tally in run.standard.by_type.items()} for name, run in results.items()}
    first = next(iter(counts))
    for name, count in counts.items():
        if count != counts[first]:
            raise ValueError(f"{name!r} and {first!r} answered different questions: {count} and {counts[first]}")


def draw(header: Sequence[str], lines: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Returns an aligned table: the first column to the left, the others to the right.

    Args:
        header: Column titles.
        lines: Cells, one list a line; the last line is the total.
        markdown: Whether to draw a Markdown table instead of plain text.
    """
    cells = [[cell.replace("|", "\\|") for cell in line] if markdown else list(line) for line in (header, *lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in cells]
    if markdown:
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
    drawn = ["  ".join(line).rstrip() for line in padded]
    rule_line = "-" * max(len(line) for line in drawn)
    return "\n".join([drawn[0], rule_line, *drawn[1:-1], rule_line, drawn[-1]])


def _types(results: Results) -> list[tuple[str, Tally]]:
    return list(results.standard.by_type.items())


def _line(standard: Tally, moka: Tally) -> list[str]:
    unparsed = standard.total - moka.total
    return [str(standard.correct), str(standard.total), _percent(standard), str(unparsed), _percent(moka)]


def _percent(tally: Tally) -> str:
    return "-" if tally.accuracy is None else f"{tally.accuracy:.2f}"
