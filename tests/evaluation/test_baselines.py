"""The most common answer per question type."""

import pytest

from moka.evaluation import TASKS, MostCommonAnswer
from tests.evaluation.helpers import question_set


def test_answers_come_from_training_questions_by_type() -> None:
    train = question_set(
        *[{"type": "Audio/Counting", "answer": answer} for answer in ("two", "one", "two")],
        *[{"type": "Visual/Location", "answer": answer} for answer in ("right", "left", "left", "right")],
        {"type": "Audio/Comparative", "answer": "left"},
    )
    baseline = MostCommonAnswer.fit(train)
    # Ties go to the alphabetically first; all in all "left" is the most common.
    assert baseline == MostCommonAnswer(
        {"Audio/Counting": "two", "Visual/Location": "left", "Audio/Comparative": "left"}, "left"
    )
    held_out = question_set(
        {"type": "Audio/Counting", "answer": "two"},
        {"type": "Visual/Location", "answer": "right"},
        {"type": "Audio-Visual/Temporal", "answer": "left"},
    )
    rows = baseline.predict(held_out)
    assert [row["parsed"] for row in rows] == ["two", "left", "left"]
    results = TASKS["music_avqa"].score(rows)
    assert (results.standard.overall.correct, results.total, results.unparsed) == (2, 3, 0)


def test_training_questions_without_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="question 'q1' has no answer"):
        MostCommonAnswer.fit(question_set({}, {"answer": None}))
    with pytest.raises(ValueError, match="no training questions"):
        MostCommonAnswer.fit([])
