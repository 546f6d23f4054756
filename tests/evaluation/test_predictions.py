"""predictions.jsonl survives a kill at any byte."""

import json
from pathlib import Path

import pytest

from moka.evaluation.predictions import (
    PredictionsError,
    append_predictions,
    read_predictions,
    recover_predictions,
    write_predictions,
)
from tests.evaluation.helpers import prediction

ROWS = [
    prediction("<answer> yes </answer>", "yes", question_id="a", question="Is this a 二胡？"),
    prediction("two\nlines\r and \u2028 others", None, question_id="b"),
    prediction(None, "no", question_id="c", media_errors=[{"path": "x.mp4", "reason": "no such file"}]),
]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    append_predictions(path, ROWS[:1])
    append_predictions(path, ROWS[1:])
    assert read_predictions(path) == ROWS
    assert recover_predictions(path) == (ROWS, False)
    assert "二胡？" in path.read_text(encoding="utf-8")
    write_predictions(path, ROWS[::-1])
    assert read_predictions(path) == ROWS[::-1]
    assert list(tmp_path.iterdir()) == [path]


def test_file_cut_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, ROWS)
    content = path.read_bytes()
    line_ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
    around = {end + offset for end in line_ends for offset in (-1, 0, 1, 2)}
    for length in sorted({*range(0, len(content), 9), *around, len(content)} - {len(content) + 1}):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        rows, cut = recover_predictions(path)
        assert rows == ROWS[:whole]
        assert cut == (length > 0 and content[length - 1 : length] != b"\n")
        append_predictions(path, ROWS[whole:])
        assert path.read_bytes() == content


def _lines(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_lines(ROWS[0]) + b'{"question_id": "b"\n' + _lines(ROWS[2]), "line 2: not JSON"),
        (_lines(ROWS[0]) + b"\n" + _lines(ROWS[2]), "line 2: not JSON"),
        (_lines(ROWS[0], ROWS[0]), "line 2: question 'a' is answered a second time"),
        (_lines({"question_id": "a"}), "line 1: a prediction has the keys question_id, type"),
        (_lines({**ROWS[0], "prediction": 3}), "line 1: a prediction has the keys"),
        (_lines({**ROWS[0], "question_id": None}), "line 1: a prediction has the keys"),
        (_lines([1]), "line 1: a prediction has the keys"),
        (b"\xff\xfe\n", "line 1: not JSON"),
    ],
)
def test_damage_that_no_kill_explains_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    for read in (read_predictions, recover_predictions):
        with pytest.raises(PredictionsError, match=message):
            read(path)
    assert path.read_bytes() == content
