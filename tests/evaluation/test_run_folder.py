"""A run's folder keeps its answers, and those of another run out."""

import json
from pathlib import Path

import pytest

from moka.evaluation import MusicAvqa
from moka.evaluation.predictions import PredictionsError, append_predictions, read_predictions
from moka.evaluation.run_folder import RunFolder
from moka.evaluation.run_identity import digest_adapter, digest_media, digest_questions
from tests.evaluation.helpers import prediction, question_set

IDENTITY = {"task": "music_avqa", "adapter": "a" * 64, "max_new_tokens": 8, "modalities": ("text",)}
ROWS = [prediction("<answer> yes </answer>", "yes", question_id=name) for name in ("q0", "q1", "q2")]


def test_resumes_only_the_same_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {"media": "here"})
    assert folder.open() == []
    append_predictions(folder.predictions, ROWS[:2])
    # Where the media lie now is no part of the identity.
    assert RunFolder(tmp_path, IDENTITY, {"media": "moved"}).open() == ROWS[:2]

    changes = {"max_new_tokens": 9, "adapter": "b" * 64, "modalities": ["text", "audio"]}
    with pytest.raises(PredictionsError, match="made by another run") as refusal:
        RunFolder(tmp_path, {**IDENTITY, **changes}, {}).open()
    message = str(refusal.value)
    for line in ("max_new_tokens: 8 there, 9 now", "adapter: content aaaaaaaaaaaa there, content bbbbbbbbbbbb now"):
        assert line in message
    assert '["text"] there, ["text", "audio"] now' in message
    assert "--overwrite" in message
    assert "task" not in message
    # A refusal changes nothing.
    assert RunFolder(tmp_path, IDENTITY, {}).open() == ROWS[:2]

    assert RunFolder(tmp_path, {**IDENTITY, **changes}, {}).open(overwrite=True) == []
    assert not folder.predictions.exists()


@pytest.mark.parametrize("run", [None, "", "{}", "[]", '{"identity": 3'])
def test_predictions_of_unknown_origin_are_refused(tmp_path: Path, run: str | None) -> None:
    append_predictions(tmp_path / "predictions.jsonl", ROWS)
    if run is not None:
        (tmp_path / "run.json").write_text(run)
    with pytest.raises(PredictionsError, match="does not tell which run made it"):
        RunFolder(tmp_path, IDENTITY, {}).open()


def test_killed_before_the_first_answer_is_resumed_by_anyone(tmp_path: Path) -> None:
    RunFolder(tmp_path, IDENTITY, {}).open()
    assert RunFolder(tmp_path, {**IDENTITY, "max_new_tokens": 9}, {}).open() == []


def test_line_cut_short_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {})
    folder.open()
    append_predictions(folder.predictions, ROWS)
    whole = folder.predictions.read_bytes()
    folder.predictions.write_bytes(whole[:-30])
    assert folder.open() == ROWS[:2]
    assert "its last line was cut short" in caplog.text
    assert folder.predictions.read_bytes() == whole[: whole[:-30].rfind(b"\n") + 1]


def test_finish_sorts_scores_and_lists_media_failures(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {"media": "here"})
    folder.open()
    failure = {"path": "x.mp4", "reason": "no such file in here"}
    unseen = prediction(None, "no", question_id="q1", media_errors=[failure])
    append_predictions(folder.predictions, [ROWS[2], unseen, ROWS[0]])
    results = folder.finish(MusicAvqa(), ["q0", "q1", "q2", "q3"], 2)
    assert [row["question_id"] for row in read_predictions(folder.predictions)] == ["q0", "q1", "q2"]
    assert (results.total, results.unparsed, results.score) == (2, 1, 50)
    written = json.loads(folder.results.read_text())
    assert written["score"] == 50
    assert written["standard"]["overall"] == {"accuracy": 50.0, "correct": 1, "total": 2}
    assert written["moka"]["overall"] == {"accuracy": 100.0, "correct": 1, "total": 1}
    assert len(written["standard"]["by_type"]) == 9
    assert written["media_failures"] == [{"row": 1, "question_id": "q1", **failure}]
    assert written["run"]["identity"]["max_new_tokens"] == 8
    # While a run goes on, there are no results.
    folder.open()
    assert not folder.results.exists()


def test_predictions_must_fit_the_questions(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, IDENTITY, {})
    folder.open()
    append_predictions(folder.predictions, ROWS)
    with pytest.raises(PredictionsError, match=r"1 answers to unknown questions \['q2'\], 1 .* \['q7'\]"):
        folder.finish(MusicAvqa(), ["q0", "q1", "q7"], 3)
    assert not folder.results.exists()


def test_identity_follows_content(tmp_path: Path) -> None:
    questions = question_set({"video": "a.mp4", "audio": "a.mp4"}, {"image": "b.png"})
    same = question_set({"video": "a.mp4", "audio": "a.mp4"}, {"image": "b.png"})
    other = question_set({"video": "a.mp4", "audio": "a.mp4"}, {"image": "b.png", "question": "another?"})
    assert digest_questions(questions) == digest_questions(same) != digest_questions(other)

    media = tmp_path / "media"
    media.mkdir()
    digests = [digest_media(questions, media)]
    (media / "a.mp4").write_bytes(b"12345")
    digests.append(digest_media(questions, media))
    (media / "a.mp4").write_bytes(b"123456")
    digests.append(digest_media(questions, media))
    assert len(set(digests)) == 3
    (media / "unrelated.mp4").write_bytes(b"1")
    assert digest_media(questions, media) == digests[-1]

    adapter = tmp_path / "adapter"
    (adapter / "eval").mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"1")
    first = digest_adapter(adapter)
    (adapter / "README.md").write_text("a better card")
    (adapter / "eval" / "results.json").write_text("{}")
    assert digest_adapter(adapter) == first
    (adapter / "adapter_model.safetensors").write_bytes(b"2")
    assert digest_adapter(adapter) != first
