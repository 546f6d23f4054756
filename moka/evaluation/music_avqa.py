"""MUSIC-AVQA (Li et al., CVPR 2022): open-ended questions on music clips, answered from a closed vocabulary."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from moka.evaluation.answers import normalise, tagged_answer
from moka.evaluation.predictions import Prediction
from moka.evaluation.results import Accuracy, Results

INSTRUMENTS = frozenset(
    [
        "accordion",
        "acoustic_guitar",
        "bagpipe",
        "banjo",
        "bassoon",
        "cello",
        "clarinet",
        "congas",
        "drum",
        "electric_bass",
        "erhu",
        "flute",
        "guzheng",
        "piano",
        "pipa",
        "saxophone",
        "suona",
        "trumpet",
        "tuba",
        "ukulele",
        "violin",
        "xylophone",
    ]
)
NUMBERS = frozenset(
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "more than ten"]
)
OTHERS = frozenset(["yes", "no", "left", "middle", "right", "simultaneously", "indoor", "outdoor"])
VOCABULARY = INSTRUMENTS | NUMBERS | OTHERS
"""The 42 answers. "ten" occurs in the training questions only; validation and test use the other 41."""

TYPES = (
    "Audio/Counting",
    "Audio/Comparative",
    "Visual/Counting",
    "Visual/Location",
    "Audio-Visual/Existential",
    "Audio-Visual/Counting",
    "Audio-Visual/Location",
    "Audio-Visual/Comparative",
    "Audio-Visual/Temporal",
)
"""The nine question types, in the order in which papers list them."""


@dataclass(frozen=True)
class MusicAvqa:
    """Parses and scores MUSIC-AVQA answers written as `<answer> X </answer>`.

    Args:
        vocabulary: The answers that exist; any other text between the tags is no answer.

    Raises:
        ValueError: The vocabulary is empty or holds an empty answer.
    """

    vocabulary: Collection[str] = VOCABULARY

    def __post_init__(self) -> None:
        if isinstance(self.vocabulary, str):
            raise ValueError(f"vocabulary is the text {self.vocabulary!r}; give a list of answers")
        words = frozenset(normalise(word) for word in self.vocabulary)
        if not words or "" in words:
            raise ValueError(f"vocabulary {sorted(words)} is empty or holds an empty answer")
        object.__setattr__(self, "vocabulary", words)

    def parse(self, prediction: str) -> str | None:
        """Returns the answer in a model's text; None unless it holds exactly one tagged answer, of the vocabulary."""
        answer = tagged_answer(prediction)
        return answer if answer in self.vocabulary else None

    def score(self, rows: Iterable[Prediction]) -> Results:
        """Counts correct answers, overall and by question type.

        Standard: every question counts, and an answer must equal the gold answer. MokA's script: questions without a
        parsed answer are left out, and the gold answer need only be a part of the prediction ("no" in "piano").

        Args:
            rows: Predictions with their questions' types and gold answers; `parsed` is not read, but parsed anew.

        Raises:
            ValueError: A gold answer is missing or not in the vocabulary, so that no prediction could be right.
        """
        standard: list[tuple[str, bool]] = []
        moka: list[tuple[str, bool]] = []
        for row in rows:
            gold = self._gold(row)
            answer = None if row["prediction"] is None else self.parse(row["prediction"])
            standard.append((row["type"], answer == gold))
            if answer is not None:
                moka.append((row["type"], gold in answer))
        all_answers = Accuracy.count(standard, TYPES)
        return Results(
            task="music_avqa",
            total=len(standard),
            unparsed=len(standard) - len(moka),
            standard=all_answers,
            moka=Accuracy.count(moka, tuple(all_answers.by_type)),
        )

    def _gold(self, row: Prediction) -> str:
        gold = row["answer"]
        if gold is None or normalise(gold) not in self.vocabulary:
            raise ValueError(
                f"question {row['question_id']!r}: the gold answer {gold!r} is not one of this benchmark's "
                f"{len(self.vocabulary)} answers ({', '.join(sorted(self.vocabulary))}); correct the question set, or "
                "score it in Python with MusicAvqa(vocabulary=[...])"
            )
        return normalise(gold)
