"""predictions.jsonl: one line a question, appended batch by batch so that a killed run loses one batch at most."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from moka.evaluation.errors import EvaluationError
from moka.evaluation.files import write_atomically


class MediaProblem(TypedDict):
    """Why a question could not be shown to the model."""

    path: str
    reason: str


class Prediction(TypedDict):
    """A line of predictions.jsonl: the question, its gold answer, what the model wrote and what was read from it."""

    question_id: str
    type: str
    question: str
    answer: str | None
    prediction: str | None  # None: see media_errors
    parsed: str | None
    media_errors: list[MediaProblem]


class PredictionsError(EvaluationError):
    """A predictions file that cannot be used; the message names the file, the line and the remedy."""


def read_predictions(path: str | Path) -> list[Prediction]:
    """Reads a complete predictions file.

    Raises:
        PredictionsError: A line is no prediction, or a question is answered twice.
    """
    path = Path(path)
    return _parse(path, path.read_bytes())


def recover_predictions(path: Path) -> tuple[list[Prediction], bool]:
    """Reads what a killed run left, and cuts off a last line that was not written to its end.

    Returns:
        The predictions, and whether a line was cut off.

    Raises:
        PredictionsError: Another line than the last is no prediction, or a question is answered twice.
    """
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rows = _parse(path, whole)
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return rows, len(whole) < len(content)


def append_predictions(path: Path, rows: Iterable[Prediction]) -> None:
    """Appends lines and returns when they are on the disk."""
    with path.open("ab") as stream:
        stream.write(_encode(rows))
        stream.flush()
        os.fsync(stream.fileno())


def write_predictions(path: Path, rows: Iterable[Prediction]) -> None:
    """Replaces the file by these lines, all or nothing."""
    write_atomically(path, _encode(rows))


def _encode(rows: Iterable[Prediction]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parse(path: Path, content: bytes) -> list[Prediction]:
    rows: dict[str, Prediction] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PredictionsError(
                f"{path}, line {number}: not JSON ({error}); remove the line to have its question answered again, "
                "or use --overwrite"
            ) from error
        if not _is_prediction(row):
            raise PredictionsError(
                f"{path}, line {number}: a prediction has the keys {', '.join(Prediction.__annotations__)}, all of "
                f"them texts, or null where a question has no such thing; this line is "
                f"{line.decode(errors='replace')[:200]!r}"
            )
        if row["question_id"] in rows:
            raise PredictionsError(f"{path}, line {number}: question {row['question_id']!r} is answered a second time")
        rows[row["question_id"]] = Prediction(**row)  # type: ignore[typeddict-item]
    return list(rows.values())


def _is_prediction(row: Any) -> bool:
    if not isinstance(row, dict) or row.keys() != Prediction.__annotations__.keys():
        return False
    texts = [row[key] for key in ("question_id", "type", "question")]
    optional_texts = [row[key] for key in ("answer", "prediction", "parsed") if row[key] is not None]
    return isinstance(row["media_errors"], list) and all(isinstance(value, str) for value in texts + optional_texts)
