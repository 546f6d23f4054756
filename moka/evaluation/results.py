"""What a benchmark's scorer returns: correct and total counts, overall and by question type, for each protocol."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tally:
    """Correct answers out of those that a protocol counts.

    Args:
        correct: Number of correct answers.
        total: Number of answers counted.
    """

    correct: int
    total: int

    @property
    def accuracy(self) -> float | None:
        """Percentage of correct answers; None when nothing was counted."""
        return 100 * self.correct / self.total if self.total else None


@dataclass(frozen=True)
class Accuracy:
    """One protocol's accuracy.

    Args:
        overall: All counted answers.
        by_type: Question type -> its counted answers, in the benchmark's order.
    """

    overall: Tally
    by_type: Mapping[str, Tally]

    @classmethod
    def count(cls, judged: Iterable[tuple[str, bool]], types: Sequence[str]) -> "Accuracy":
        """Counts answers by question type.

        Args:
            judged: (question type, whether the answer is correct) of every answer that counts.
            types: Types that are always listed, in this order; others follow alphabetically.
        """
        counts: dict[str, list[int]] = {name: [0, 0] for name in types}
        for name, correct in judged:
            entry = counts.setdefault(name, [0, 0])
            entry[0] += correct
            entry[1] += 1
        names = [*types, *sorted(counts.keys() - set(types))]
        return cls(
            overall=Tally(sum(entry[0] for entry in counts.values()), sum(entry[1] for entry in counts.values())),
            by_type={name: Tally(*counts[name]) for name in names},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; accuracies are percentages."""
        return {"overall": _tally(self.overall), "by_type": {name: _tally(t) for name, t in self.by_type.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Accuracy":
        """The inverse of `to_dict`."""
        by_type = {name: Tally(t["correct"], t["total"]) for name, t in values["by_type"].items()}
        return cls(Tally(values["overall"]["correct"], values["overall"]["total"]), by_type)


@dataclass(frozen=True)
class Results:
    """A benchmark's score.

    Args:
        task: Name of the benchmark.
        total: Number of questions.
        unparsed: Number of questions without a usable answer.
        standard: The benchmark's own rules; an answer that cannot be read is wrong.
        moka: What the script of the MokA authors computes, so that their published numbers can be checked.
    """

    task: str
    total: int
    unparsed: int
    standard: Accuracy
    moka: Accuracy

    @property
    def score(self) -> float | None:
        """The headline number: overall accuracy in percent under the standard protocol."""
        return self.standard.overall.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as in results.json."""
        return {
            "task": self.task,
            "score": self.score,
            "total": self.total,
            "unparsed": self.unparsed,
            "standard": self.standard.to_dict(),
            "moka": self.moka.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Results":
        """The inverse of `to_dict`; further keys of results.json are left out."""
        return cls(
            task=values["task"],
            total=values["total"],
            unparsed=values["unparsed"],
            standard=Accuracy.from_dict(values["standard"]),
            moka=Accuracy.from_dict(values["moka"]),
        )


def load_results(path: str | Path) -> Results:
    """Reads a results.json."""
    return Results.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def _tally(tally: Tally) -> dict[str, Any]:
    return {"accuracy": tally.accuracy, "correct": tally.correct, "total": tally.total}
