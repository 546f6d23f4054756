"""Asking a trained model about one's own files."""

import os
from pathlib import Path

import pytest

from moka.data import MediaError
from moka.evaluation import Assistant, EvaluationError, evaluate, read_predictions

from .conftest import QUESTIONS, World


@pytest.fixture(scope="module")
def assistant(world: World) -> Assistant:
    return Assistant(world.folder / "adapter")


def test_it_answers_as_the_evaluation_does(world: World, assistant: Assistant, tmp_path: Path) -> None:
    evaluate(world.arguments(tmp_path))
    expected = [row["prediction"] for row in read_predictions(str(tmp_path / "predictions.jsonl"))]
    media = world.folder / "media"
    for row, answer in zip(QUESTIONS, expected, strict=True):
        files = {name: media / row[name] for name in ("video", "audio", "image") if name in row}
        assert assistant.ask(row["question"], **files, max_new_tokens=12) == answer
    assert len(set(expected)) > 1


def test_files_may_lie_anywhere(
    world: World, assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = next(row["question"] for row in QUESTIONS if "video" in row and "audio" in row)
    clip = world.folder / "media" / "clip.mp4"
    answer = assistant.ask(question, video=clip, audio=clip, max_new_tokens=12)
    (tmp_path / "copy.mp4").write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(clip, tmp_path)
    assert assistant.ask(question, video="copy.mp4", audio=relative, max_new_tokens=12) == answer


def test_what_cannot_be_asked(assistant: Assistant, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.mp4"):
        assistant.ask("what ?", video=tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="is empty"):
        assistant.ask(" ")
    with pytest.raises(EvaluationError, match="no such folder"):
        Assistant(tmp_path / "absent")
