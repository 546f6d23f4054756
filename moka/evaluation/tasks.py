"""The benchmarks by name."""

from collections.abc import Iterable
from typing import Protocol

from moka.evaluation.music_avqa import MusicAvqa
from moka.evaluation.predictions import Prediction
from moka.evaluation.results import Results


class Task(Protocol):
    """What a benchmark is: it finds the answer in a model's text, and scores all answers."""

    def parse(self, prediction: str) -> str | None:
        """Returns the answer in a model's text, None when there is none that can be read; never raises."""

    def score(self, rows: Iterable[Prediction]) -> Results:
        """Scores predictions; raises ValueError where a question itself cannot be scored."""


TASKS: dict[str, Task] = {"music_avqa": MusicAvqa()}
