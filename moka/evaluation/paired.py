"""Whether one run is better than another on the same questions."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from moka.evaluation.predictions import Prediction
from moka.evaluation.tasks import Task


@dataclass(frozen=True)
class Paired:
    """What two runs got right on the same questions.

    Args:
        only_first: Questions that only the first run answers correctly.
        only_second: Questions that only the second run answers correctly.
        total: Questions.
    """

    only_first: int
    only_second: int
    total: int

    @property
    def difference(self) -> float:
        """First minus second, in percentage points of accuracy."""
        return 100 * (self.only_first - self.only_second) / self.total

    @property
    def p_value(self) -> float:
        """Two-sided exact McNemar test: how likely so uneven a split is if both runs are equally good.

        It takes questions as independent, which several questions about one clip are not quite, and says nothing about
        other training seeds.
        """
        either = self.only_first + self.only_second
        fewer = min(self.only_first, self.only_second)
        tail = sum(math.comb(either, count) for count in range(fewer + 1))
        return min(1.0, 2 * tail / 2**either)


def compare(task: Task, first: Iterable[Prediction], second: Iterable[Prediction]) -> Paired:
    """Compares two runs question by question, under the standard protocol.

    Args:
        task: The benchmark, which judges the answers.
        first: One run's predictions.
        second: The other's.

    Raises:
        ValueError: The runs did not answer the same questions, or there are none.
    """
    correct = [
        {row["question_id"]: task.score([row]).standard.overall.correct for row in run} for run in (first, second)
    ]
    if correct[0].keys() != correct[1].keys():
        other = sorted(correct[0].keys() ^ correct[1].keys())
        raise ValueError(f"the runs answered different questions: {len(other)} are in one only, such as {other[0]!r}")
    if not correct[0]:
        raise ValueError("there are no questions to compare")
    pairs = [(right, correct[1][name]) for name, right in correct[0].items()]
    return Paired(pairs.count((1, 0)), pairs.count((0, 1)), len(pairs))
