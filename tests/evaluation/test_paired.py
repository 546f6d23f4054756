"""Paired comparison of two runs."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moka.evaluation import MusicAvqa, Paired, compare
from tests.evaluation.helpers import prediction
from tests.evaluation.test_report import NO, YES


def run(*texts: str) -> list:
    return [prediction(text, "yes", question_id=str(row)) for row, text in enumerate(texts)]


def test_counts_the_questions_that_only_one_run_answers() -> None:
    result = compare(MusicAvqa(), run(YES, YES, YES, NO, "?"), run(YES, NO, "?", YES, "?"))
    assert result == Paired(only_first=2, only_second=1, total=5)
    assert result.difference == pytest.approx(20)
    # The order of the questions does not matter.
    assert compare(MusicAvqa(), run(YES, NO), run(NO, YES)[::-1]) == Paired(1, 1, 2)


@given(st.integers(0, 6), st.integers(0, 6))
def test_p_value_counts_the_splits_at_least_as_uneven(first: int, second: int) -> None:
    either = first + second
    splits = [sum(coins) for coins in itertools.product((0, 1), repeat=either)]
    uneven = sum(abs(2 * heads - either) >= abs(first - second) for heads in splits)
    assert Paired(first, second, 20).p_value == pytest.approx(uneven / len(splits))


def test_only_the_same_questions_are_compared() -> None:
    with pytest.raises(ValueError, match=r"2 are in one only, such as '1'"):
        compare(MusicAvqa(), run(YES, NO, YES), run(YES))
    with pytest.raises(ValueError, match="no questions"):
        compare(MusicAvqa(), [], [])
