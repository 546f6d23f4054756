"""Tables of accuracy."""

import pytest

from moka.evaluation import MusicAvqa, Results, comparison_table, results_table
from tests.evaluation.helpers import prediction


def run(*texts: str) -> Results:
    rows = [
        prediction(text, "yes", type=("Audio/Counting", "Visual/Location", "")[i % 3]) for i, text in enumerate(texts)
    ]
    return MusicAvqa().score(rows)


YES, NO = "<answer> yes </answer>", "<answer> no </answer>"


def test_results_table_shows_both_protocols_line_by_line() -> None:
    lines = results_table(run(YES, NO, "?", NO, "?", "?")).splitlines()
    assert lines[0].split("  ")[0] == "Question type"
    table = {line[:28].strip(): line.split()[-5:] for line in lines}
    assert table["Audio/Counting"] == ["1", "2", "50.00", "0", "50.00"]
    assert table["Visual/Location"] == ["0", "2", "0.00", "1", "0.00"]
    assert table["(no type)"] == ["0", "2", "0.00", "2", "-"]
    assert table["Audio-Visual/Temporal"] == ["0", "0", "-", "0", "-"]
    assert lines[-1].split() == ["Overall", "1", "6", "16.67", "3", "33.33"]
    # Nine types, the one without a name, the total, the header and two rules.
    assert len(lines) == 14


def test_markdown_columns_line_up_and_cells_cannot_break_out() -> None:
    rows = [prediction(YES, "yes", type="a|b")]
    lines = results_table(MusicAvqa().score(rows), markdown=True).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) <= set("|-: ")
    assert any(line.startswith("| a\\|b ") for line in lines)


def test_comparison_has_a_column_for_each_run() -> None:
    runs = {"MokA": run(YES, YES, "?"), "question only": run(NO, YES, NO)}
    lines = comparison_table(runs).splitlines()
    assert lines[0].split() == ["Question", "type", "MokA", "question", "only"]
    assert lines[-1].split() == ["Overall", "66.67", "33.33"]
    assert comparison_table(runs, protocol="moka").splitlines()[-1].split() == ["Overall", "100.00", "33.33"]
    markdown = comparison_table(runs, markdown=True).splitlines()
    assert markdown[-1].replace(" ", "") == "|Overall|66.67|33.33|"


def test_runs_on_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="answered different questions"):
        comparison_table({"a": run(YES), "b": run(YES, YES)})
