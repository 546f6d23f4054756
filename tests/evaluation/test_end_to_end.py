"""Evaluation of a real (tiny, random) model on real clips."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from moka.evaluation import (
    EvaluationArguments,
    EvaluationError,
    Results,
    evaluate,
    load_results,
    read_predictions,
    run,
)
from moka.evaluation.results import Tally
from tests.evaluation.conftest import CLIP, QUESTIONS, World, save_trained, write_questions

SCRIPT = Path(__file__).resolve().parents[2] / "eval" / "evaluate.py"


@pytest.fixture(scope="module")
def baseline(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run."""
    output = tmp_path_factory.mktemp("baseline")
    evaluate(world.arguments(output))
    return output


def texts(output: Path) -> list[str | None]:
    return [row["prediction"] for row in read_predictions(output / "predictions.jsonl")]


def test_answers_are_in_order_and_depend_on_the_question(baseline: Path) -> None:
    rows = read_predictions(baseline / "predictions.jsonl")
    assert [row["question_id"] for row in rows] == [f"q{i}" for i in range(len(QUESTIONS))]
    assert [row["question"] for row in rows] == [row["question"] for row in QUESTIONS]
    assert [row["answer"] for row in rows] == [row["answer"] for row in QUESTIONS]
    # The tests below would prove nothing about a model that always writes the same.
    assert len(set(texts(baseline))) >= 5
    results = load_results(baseline / "results.json")
    assert results.total == len(QUESTIONS)
    assert results.standard.by_type["Audio/Counting"].total == 3


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batch_size_changes_no_answer(world: World, baseline: Path, tmp_path: Path, batch_size: int) -> None:
    evaluate(world.arguments(tmp_path, batch_size=batch_size))
    for name in ("predictions.jsonl", "results.json", "run.json"):
        assert (tmp_path / name).read_bytes() == (baseline / name).read_bytes()


def test_withheld_media_are_neither_read_nor_used(world: World, baseline: Path, tmp_path: Path) -> None:
    given = texts(baseline)
    outputs = {}
    for modalities in ("text", "text,audio", "text,visual"):
        outputs[modalities] = tmp_path / modalities
        evaluate(world.arguments(outputs[modalities], modalities=modalities))
    for i, question in enumerate(QUESTIONS):
        has_video, has_audio = "video" in question, "audio" in question
        assert (texts(outputs["text,audio"])[i] == given[i]) == (not has_video)
        assert (texts(outputs["text,visual"])[i] == given[i]) == (not has_audio)
        assert (texts(outputs["text"])[i] == given[i]) == (not has_video and not has_audio)
    # Without media, their folder may be empty.
    (tmp_path / "empty").mkdir()
    evaluate(world.arguments(tmp_path / "out", modalities="text", media=str(tmp_path / "empty")))
    assert texts(tmp_path / "out") == texts(outputs["text"])


def test_windowing_and_prompt_are_those_of_training(world: World, baseline: Path, tmp_path: Path) -> None:
    written = json.loads((baseline / "run.json").read_text())["identity"]
    assert written["windowing"]["num_frames"] == 2
    other = json.loads((world.folder / "adapter" / "data_config.json").read_text())
    other["windowing"]["num_frames"] = 3
    (tmp_path / "other.json").write_text(json.dumps(other))
    evaluate(world.arguments(tmp_path / "out", data_config=str(tmp_path / "other.json")))
    changed = [a != b for a, b in zip(texts(tmp_path / "out"), texts(baseline), strict=True)]
    assert changed == ["video" in question for question in QUESTIONS]
    other["windowing"]["window_seconds"] = 60
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(EvaluationError, match=r"window 0 has 960000 samples"):
        evaluate(world.arguments(tmp_path / "long", data_config=str(tmp_path / "other.json")))


def test_a_missing_gpu_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EvaluationError, match="--device cuda:1: torch finds no GPU"):
        evaluate(world.arguments(tmp_path, device="cuda:1"))


def test_limit_then_all_answers_nothing_twice(
    world: World, baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(task: Any, model: Any, collator: Any, pending: Any, path: Path, **options: Any) -> None:
        asked.extend(pending["question_id"])
        original(task, model, collator, pending, path, **options)

    original = run.answer_questions
    monkeypatch.setattr(run, "answer_questions", spy)
    first = evaluate(world.arguments(tmp_path, limit=3))
    assert asked == ["q0", "q1", "q2"]
    assert first.total == 3
    assert evaluate(world.arguments(tmp_path)).total == len(QUESTIONS)
    assert asked == [f"q{i}" for i in range(len(QUESTIONS))]
    assert (tmp_path / "predictions.jsonl").read_bytes() == (baseline / "predictions.jsonl").read_bytes()
    # Complete: scored again without a model, also for fewer questions.
    assert evaluate(world.arguments(tmp_path, limit=3)) == first
    assert evaluate(world.arguments(tmp_path, limit=100)).total == len(QUESTIONS)
    assert len(asked) == len(QUESTIONS)
    evaluate(world.arguments(tmp_path, limit=2, overwrite=True))
    assert asked[len(QUESTIONS) :] == ["q0", "q1"]


def test_answers_of_another_run_are_refused(world: World, tmp_path: Path) -> None:
    evaluate(world.arguments(tmp_path, limit=1))
    before = (tmp_path / "predictions.jsonl").read_bytes()
    others = write_questions(tmp_path / "other.jsonl", [*QUESTIONS[1:], QUESTIONS[0]])
    changes: list[tuple[str, dict[str, Any]]] = [
        ("max_new_tokens: 12 there, 13 now", {"max_new_tokens": 13}),
        ("modalities:", {"modalities": "text"}),
        ("questions: content", {"questions": str(others)}),
        ("dtype:", {"dtype": "bfloat16"}),
        ("language_model:", {"language_model": "another"}),
    ]
    for message, change in changes:
        with pytest.raises(EvaluationError, match=message):
            evaluate(world.arguments(tmp_path, **change))
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_two_runs_never_share_an_output(world: World, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(EvaluationError, match="another evaluation is writing"):
        evaluate(world.arguments(tmp_path))


def test_questions_that_cannot_be_scored_or_asked_are_refused_first(world: World, tmp_path: Path) -> None:
    def refuse(row: dict[str, Any], message: str) -> None:
        questions = write_questions(tmp_path / "bad.jsonl", [QUESTIONS[0], row])
        with pytest.raises(EvaluationError, match=message):
            evaluate(world.arguments(tmp_path / "out", questions=str(questions), overwrite=True))
        path = tmp_path / "out" / "predictions.jsonl"
        assert not path.exists() or not read_predictions(path)

    refuse({**QUESTIONS[1], "answer": "maybe"}, r"bad\.jsonl: question 'q1': the gold answer 'maybe'")
    refuse({**QUESTIONS[1], "answer": None}, "the gold answer None")
    refuse({**QUESTIONS[1], "question_id": "q0"}, r"'q0' in rows \[0, 1\]")
    refuse({**QUESTIONS[1], "question": "what is </s> ?"}, "'q1'.*</s>")


def test_broken_clip(world: World, tmp_path: Path) -> None:
    rows = [QUESTIONS[6], {**QUESTIONS[0], "video": "gone.mp4"}, {**QUESTIONS[0], **CLIP}]
    questions = str(write_questions(tmp_path / "set.jsonl", rows))
    with pytest.raises(EvaluationError, match=r"row 1 \(question 'q1'\): gone\.mp4: no such file"):
        evaluate(world.arguments(tmp_path, questions=questions))
    results = evaluate(world.arguments(tmp_path, questions=questions, allow_media_failures=True))
    assert results.standard.by_type["Audio/Counting"].total == 2
    written = json.loads((tmp_path / "results.json").read_text())
    (failure,) = written["media_failures"]
    assert (failure["row"], failure["question_id"], failure["path"]) == (1, "q1", "gone.mp4")
    assert "no such file" in failure["reason"]
    assert texts(tmp_path)[1] is None
    assert None not in (texts(tmp_path)[0], texts(tmp_path)[2])


def test_command_line_prints_the_table(
    world: World, baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *world.argv(baseline)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    overall = load_results(baseline / "results.json").standard.overall
    assert overall == Tally(overall.correct, len(QUESTIONS))
    total = next(line.split() for line in lines if line.startswith("Overall"))
    assert total[1:4] == [str(overall.correct), str(overall.total), f"{overall.accuracy:.2f}"]
    assert any(line.startswith("Audio-Visual/Temporal") for line in lines)
    assert str(baseline) in lines[-1]

    monkeypatch.setattr(sys, "argv", ["evaluate.py", *world.argv(baseline, max_new_tokens=3)])
    with pytest.raises(SystemExit, match="made by another run"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_default_output_lies_in_the_adapters_folder_and_does_not_change_its_identity(world: World) -> None:
    arguments = EvaluationArguments(**{**world.settings(Path("unused"), limit=1), "output": None})
    folder = world.folder / "adapter" / "eval" / "music_avqa-questions"
    evaluate(arguments)
    assert isinstance(load_results(folder / "results.json"), Results)
    evaluate(arguments)


def test_projectors_without_an_adapter_are_evaluated_too(world: World, baseline: Path, tmp_path: Path) -> None:
    backbones = {name: str(world.folder / name) for name in ("language_model", "vision_tower", "audio_tower")}
    trained = save_trained(tmp_path / "projectors", adapter=False, **backbones)
    evaluate(world.arguments(tmp_path / "out", adapter=str(trained)))
    assert texts(tmp_path / "out") != texts(baseline)


def test_model_that_cannot_see_is_not_shown_clips(world: World, tmp_path: Path) -> None:
    backbones = {name: str(world.folder / name) for name in ("language_model", "audio_tower")}
    blind = save_trained(tmp_path / "blind", adapter=True, **backbones)
    with pytest.raises(EvaluationError, match=r"without visual input.*clip\.mp4.*--modalities text,audio"):
        evaluate(world.arguments(tmp_path / "out", adapter=str(blind)))
    results = evaluate(world.arguments(tmp_path / "heard", adapter=str(blind), modalities="text,audio"))
    assert results.total == len(QUESTIONS)


def test_adapter_that_cannot_be_loaded_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"adapter' cannot be loaded: .*nowhere"):
        evaluate(world.arguments(tmp_path, language_model=str(tmp_path / "nowhere")))


def test_half_precision(world: World, tmp_path: Path) -> None:
    evaluate(world.arguments(tmp_path, dtype="bfloat16"))
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["dtype"] == "bfloat16"
    assert len(set(texts(tmp_path))) > 1
