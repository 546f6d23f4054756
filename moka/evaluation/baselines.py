"""What can be scored without looking or listening: the bar that a model must pass."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moka.data.prompts import PromptTemplate
from moka.evaluation.predictions import Prediction


@dataclass(frozen=True)
class MostCommonAnswer:
    """Answers every question with the most common training answer of its type.

    Args:
        by_type: Question type -> its most common answer.
        overall: The most common answer of all, for types without training questions.
        answer_format: How a model would write an answer; {answer} stands for it.
    """

    by_type: Mapping[str, str]
    overall: str
    answer_format: str = PromptTemplate.answer

    @classmethod
    def fit(cls, questions: Iterable[Mapping[str, Any]]) -> "MostCommonAnswer":
        """Counts the answers of training questions; ties go to the alphabetically first.

        Args:
            questions: Question records with `type` and `answer`.

        Raises:
            ValueError: A record has no answer, or there are no records.
        """
        counts: dict[str, Counter[str]] = {}
        for record in questions:
            if record["answer"] is None:
                raise ValueError(f"question {record['question_id']!r} has no answer to count")
            counts.setdefault(record["type"], Counter())[record["answer"]] += 1
        if not counts:
            raise ValueError("no training questions to count answers in")
        return cls({name: _top(counter) for name, counter in counts.items()}, _top(sum(counts.values(), Counter())))

    def predict(self, questions: Iterable[Mapping[str, Any]]) -> list[Prediction]:
        """Returns predictions to be scored as a model's are.

        Args:
            questions: Question records.
        """
        rows = []
        for record in questions:
            answer = self.by_type.get(record["type"], self.overall)
            rows.append(
                Prediction(
                    question_id=record["question_id"],
                    type=record["type"],
                    question=record["question"],
                    answer=record["answer"],
                    prediction=self.answer_format.replace("{answer}", answer),
                    parsed=answer,
                    media_errors=[],
                )
            )
        return rows


def _top(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
