"""MUSIC-AVQA's parser and scorer."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moka.data import load_questions
from moka.evaluation import MostCommonAnswer, MusicAvqa, Results
from moka.evaluation.music_avqa import TYPES, VOCABULARY
from tests.evaluation.helpers import prediction

TASK = MusicAvqa()
answers = st.sampled_from(sorted(VOCABULARY))
# Pieces of which a text that tries to cheat would be made.
pieces = st.lists(
    st.one_of(
        answers, st.text(max_size=5), st.sampled_from(["<answer>", "</answer>", " ", "\n", "<answer", "<ANSWER>"])
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("<answer> two </answer>", "two"),
        ("The cello plays first. So it is <answer>Cello</answer>.", "cello"),
        ("<answer>\n more than ten\t</answer>", "more than ten"),
        ("<answer> two </answer> or <answer> three </answer>", None),
        ("<answer> two </answer><answer> two </answer>", None),
        ("two", None),
        ("", None),
        ("<answer></answer>", None),
        ("<answer> two", None),
        ("two </answer>", None),
        ("<ANSWER> two </ANSWER>", None),
        ("<answer> two or three </answer>", None),
        ("<answer> twelve </answer>", None),
        ("<answer> more  than  ten </answer>", None),
        ("<answer> <answer> two </answer>", None),
    ],
)
def test_parse(text: str, parsed: str | None) -> None:
    assert TASK.parse(text) == parsed


def test_vocabulary_is_that_of_the_official_files(shared: Path) -> None:
    found: set[str] = set()
    for name in ("avqa-test.json", "avqa-val.json"):
        rows = json.loads((shared / "data" / "music_avqa" / name).read_text())
        answers_of_file = {row["anser"] for row in rows}
        assert len(answers_of_file) == 41
        found |= answers_of_file
    assert len(VOCABULARY) == 42
    assert VOCABULARY - found == {"ten"}
    assert found <= VOCABULARY


def test_only_four_pairs_of_answers_are_parts_of_one_another() -> None:
    pairs = {(a, b) for a in VOCABULARY for b in VOCABULARY if a != b and a in b}
    assert pairs == {("ten", "more than ten"), ("no", "piano"), ("one", "saxophone"), ("one", "xylophone")}


def test_real_test_set_has_nine_types_and_known_counts(shared: Path) -> None:
    questions = load_questions(shared / "data" / "music_avqa" / "avqa-test.json")
    results = TASK.score(MostCommonAnswer.fit(questions).predict(questions))
    assert results.total == 9129
    totals = {name: tally.total for name, tally in results.standard.by_type.items()}
    assert totals == dict(zip(TYPES, [1017, 594, 1197, 1225, 988, 1265, 920, 1101, 822], strict=True))
    # Each type's most common answer, counted on the test set itself, from the file.
    assert results.standard.by_type["Audio/Comparative"].correct == 323
    assert results.standard.by_type["Visual/Location"].correct == 235
    assert results.standard.by_type["Audio-Visual/Temporal"].correct == 138
    assert results.unparsed == 0


def test_published_arithmetic() -> None:
    """9,129 questions, 9,059 kept, 7,044 correct: published as 77.76 %, which is 77.16 % of all questions."""
    rows = [prediction("<answer> yes </answer>", "yes")] * 7044
    rows += [prediction("<answer> no </answer>", "yes")] * (9059 - 7044)
    rows += [prediction("I cannot say.", "yes")] * (9129 - 9059)
    results = TASK.score(rows)
    assert (results.total, results.unparsed) == (9129, 70)
    assert round(results.moka.overall.accuracy or 0, 2) == 77.76
    assert round(results.standard.overall.accuracy or 0, 2) == 77.16
    assert results.score == results.standard.overall.accuracy


def test_authors_protocol_accepts_parts_and_standard_does_not() -> None:
    results = TASK.score([prediction("<answer> saxophone </answer>", "one", type="Visual/Location")])
    assert (results.moka.overall.correct, results.standard.overall.correct) == (1, 0)
    # Not the other way round: a part of the gold answer is no answer.
    results = TASK.score([prediction("<answer> one </answer>", "saxophone")])
    assert (results.moka.overall.correct, results.standard.overall.correct) == (0, 0)


def test_types_are_listed_in_order_with_strangers_at_the_end() -> None:
    rows = [prediction(None, "yes", type=name) for name in ("Zeal", "Audio/Counting", "")]
    results = TASK.score(rows)
    assert list(results.standard.by_type) == [*TYPES, "", "Zeal"]
    # A type whose answers were all dropped has no accuracy, but a line.
    assert list(results.moka.by_type) == [*TYPES, "", "Zeal"]
    assert results.moka.by_type["Zeal"].accuracy is None
    assert results.standard.by_type["Zeal"].accuracy == 0
    assert results.standard.by_type["Visual/Location"].accuracy is None


@pytest.mark.parametrize("gold", [None, "", "maybe"])
def test_question_that_no_answer_fits_is_refused(gold: str | None) -> None:
    with pytest.raises(ValueError, match="question '17': the gold answer"):
        TASK.score([prediction("<answer> yes </answer>", gold, question_id="17")])


def test_custom_vocabulary() -> None:
    colours = MusicAvqa(vocabulary=["Red ", "blue"])
    assert colours.parse("<answer>RED</answer>") == "red"
    assert colours.parse("<answer>yes</answer>") is None
    assert colours.score([prediction("<answer> red </answer>", "Red")]).score == 100
    for wrong in ([], ["red", " "], "red"):
        with pytest.raises(ValueError, match="vocabulary"):
            MusicAvqa(vocabulary=wrong)


@given(st.one_of(st.text(), pieces))
def test_parser_never_crashes_and_never_guesses(text: str) -> None:
    parsed = TASK.parse(text)
    # An oracle without regular expressions: between the first opening tag and the next closing one.
    _, opening, rest = text.partition("<answer>")
    inside, closing, after = rest.partition("</answer>")
    complete = bool(opening and closing)
    several = complete and "</answer>" in after.partition("<answer>")[2]
    candidate = inside.strip().lower()
    expected = candidate if complete and not several and candidate in VOCABULARY else None
    assert parsed == expected


@given(st.lists(st.tuples(st.one_of(st.none(), st.text(), pieces), answers, st.sampled_from([*TYPES, "", "x"]))))
def test_scores_are_counts_and_unparsed_text_earns_nothing(cases: list[tuple[str | None, str, str]]) -> None:
    rows = [prediction(text, gold, type=name) for text, gold, name in cases]
    results = TASK.score(rows)
    parsed = [None if text is None else TASK.parse(text) for text, _, _ in cases]
    exact = sum(found == gold for found, (_, gold, _) in zip(parsed, cases, strict=True))
    assert results.standard.overall.correct == exact
    assert results.standard.overall.total == len(cases)
    assert results.unparsed == parsed.count(None)
    assert results.moka.overall.total == len(cases) - results.unparsed
    assert exact <= results.moka.overall.correct <= results.moka.overall.total
    for accuracy in (results.standard, results.moka):
        assert sum(tally.correct for tally in accuracy.by_type.values()) == accuracy.overall.correct
        assert sum(tally.total for tally in accuracy.by_type.values()) == accuracy.overall.total
    per_type = Counter(name for _, _, name in cases)
    assert {name: tally.total for name, tally in results.standard.by_type.items() if tally.total} == dict(per_type)
    assert Results.from_dict(json.loads(json.dumps(results.to_dict()))) == results


@given(answers, answers)
def test_both_gold_and_wrong_answer_in_one_text_earn_nothing(gold: str, other: str) -> None:
    text = f"<answer> {gold} </answer> <answer> {other} </answer>"
    results = TASK.score([prediction(text, gold)])
    assert results.standard.overall.correct == results.moka.overall.correct == 0
