"""A killed evaluation goes on where it stopped."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moka.evaluation import evaluate, run
from tests.evaluation.conftest import QUESTIONS, World, write_questions
from tests.evaluation.jobs import evaluate_until_killed_mid_line

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the questions that this process asks a model."""
    ids: list[str] = []

    def spy(task: Any, model: Any, collator: Any, pending: Any, path: Path, **options: Any) -> None:
        ids.extend(pending["question_id"])
        original(task, model, collator, pending, path, **options)

    original = run.answer_questions
    monkeypatch.setattr(run, "answer_questions", spy)
    return ids


def test_killed_in_the_middle_of_a_line(world: World, tmp_path: Path, asked: list[str]) -> None:
    expected = evaluate(world.arguments(tmp_path / "whole"))
    asked.clear()
    context = multiprocessing.get_context("spawn")
    arguments = world.arguments(tmp_path / "killed")
    process = context.Process(target=evaluate_until_killed_mid_line, args=(arguments, 1))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    predictions = tmp_path / "killed" / "predictions.jsonl"
    left = predictions.read_bytes()
    assert not left.endswith(b"\n")
    whole_lines = left.count(b"\n")
    assert whole_lines >= 3
    assert not (tmp_path / "killed" / "results.json").exists()

    assert evaluate(arguments) == expected
    assert len(asked) == len(QUESTIONS) - whole_lines
    for name in ("predictions.jsonl", "results.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_command_line_killed_from_outside(world: World, tmp_path: Path, asked: list[str]) -> None:
    rows = [{**row, "question_id": f"{copy}-{i}"} for copy in range(5) for i, row in enumerate(QUESTIONS)]
    questions = str(write_questions(tmp_path / "set.jsonl", rows))
    settings = {"questions": questions, "batch_size": 1, "max_new_tokens": 40}
    expected = evaluate(world.arguments(tmp_path / "whole", **{**settings, "batch_size": 40}))
    asked.clear()

    predictions = tmp_path / "killed" / "predictions.jsonl"
    process = subprocess.Popen(
        [sys.executable, "eval/evaluate.py", *world.argv(tmp_path / "killed", **settings)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if predictions.exists() and predictions.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.005)
    process.kill()
    _, shown = process.communicate()
    assert process.returncode == -signal.SIGKILL, shown
    assert "Answering" in shown
    lines = predictions.read_bytes().split(b"\n")[:-1]
    assert 3 <= len(lines) < len(rows)

    assert evaluate(world.arguments(tmp_path / "killed", **settings)) == expected
    assert len(asked) == len(rows) - len(lines)
    content = predictions.read_bytes()
    assert content == (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    assert set(lines) <= set(content.split(b"\n"))
