"""Generation over a question set, with a scripted model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from moka.evaluation import EvaluationError, MusicAvqa
from moka.evaluation.answer import answer_questions
from moka.evaluation.generate import generate_answers, order_by_length
from moka.evaluation.predictions import read_predictions
from tests.evaluation.helpers import ScriptedCollator, ScriptedModel, ScriptedTokenizer, question_set

QUESTIONS = question_set(*({"question": "why " * length} for length in (3, 1, 5, 2, 4)))
ANSWERS = {row["question"]: f"  <answer> {'yes' if i % 2 else 'dunno'} </answer> " for i, row in enumerate(QUESTIONS)}


def answer(model: ScriptedModel, path: Path, collator: Any = None, questions: Any = QUESTIONS, **options: Any) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 5, **options}
    rows = {name: row + 10 for row, name in enumerate(questions["question_id"])}
    answer_questions(
        MusicAvqa(), model, collator or ScriptedCollator(), questions, path, rows=rows, total=len(rows), **settings
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_each_question_gets_its_own_answer_once(tmp_path: Path, batch_size: int) -> None:
    model = ScriptedModel(ANSWERS)
    answer(model, tmp_path / "p.jsonl", batch_size=batch_size)
    assert [question for batch in model.asked for question in batch] == sorted(ANSWERS, key=len, reverse=True)
    assert max(map(len, model.asked)) == min(batch_size, 5)
    rows = {row["question_id"]: row for row in read_predictions(tmp_path / "p.jsonl")}
    for i, record in enumerate(QUESTIONS):
        row = rows[record["question_id"]]
        assert row["prediction"] == ANSWERS[record["question"]].strip()
        assert row["parsed"] == ("yes" if i % 2 else None)
        assert (row["question"], row["type"], row["answer"]) == (record["question"], "Audio/Counting", "yes")
        assert row["media_errors"] == []


def test_every_finished_batch_is_on_disk_when_the_next_begins(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(ScriptedModel(ANSWERS, die_after=2), tmp_path / "p.jsonl")
    assert [row["question"] for row in read_predictions(tmp_path / "p.jsonl")] == ["why " * n for n in (5, 4, 3, 2)]


def test_progress_counts_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"rows": {f"q{i}": i for i in range(5)}, "batch_size": 2, "max_new_tokens": 5}
    pending = QUESTIONS.select([2, 4])
    model = ScriptedModel(ANSWERS)
    answer_questions(MusicAvqa(), model, ScriptedCollator(), pending, tmp_path / "p.jsonl", total=5, **settings)  # type: ignore[arg-type]
    assert "Answering" in (shown := capsys.readouterr().err)
    assert "3/5" in shown
    assert "5/5" in shown


def test_media_failures_stop_before_the_first_question(tmp_path: Path) -> None:
    questions = question_set(
        {"question": "a", "video": "ok.mp4"}, {"question": "b", "video": "bad.mp4", "audio": "gone.wav"}
    )
    collator = ScriptedCollator(broken={"bad.mp4": "truncated: 1 s of 9 s", "gone.wav": "no such file"})
    model = ScriptedModel({"a": "<answer>yes</answer>"})
    with pytest.raises(EvaluationError) as refusal:
        answer(model, tmp_path / "p.jsonl", collator, questions)
    assert "row 11 (question 'q1'): bad.mp4: truncated: 1 s of 9 s" in str(refusal.value)
    assert "row 11 (question 'q1'): gone.wav: no such file" in str(refusal.value)
    assert "--allow-media-failures" in str(refusal.value)
    assert not (tmp_path / "p.jsonl").exists()
    assert model.asked == []

    answer(model, tmp_path / "p.jsonl", collator, questions, allow_media_failures=True)
    failed, answered = read_predictions(tmp_path / "p.jsonl")
    assert model.asked == [["a"]]
    assert answered["parsed"] == "yes"
    assert (failed["prediction"], failed["parsed"]) == (None, None)
    assert [problem["path"] for problem in failed["media_errors"]] == ["bad.mp4", "gone.wav"]
    results = MusicAvqa().score([failed, answered])
    assert (results.standard.overall.correct, results.standard.overall.total) == (1, 2)


def test_no_questions_left_by_media_failures(tmp_path: Path) -> None:
    questions = question_set({"video": "bad.mp4"})
    collator = ScriptedCollator(broken={"bad.mp4": "empty"})
    answer(ScriptedModel({}), tmp_path / "p.jsonl", collator, questions, allow_media_failures=True)
    assert len(read_predictions(tmp_path / "p.jsonl")) == 1


def test_decoding_is_greedy_whatever_the_backbone_prefers() -> None:
    model = ScriptedModel(ANSWERS)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, num_beams=4, repetition_penalty=1.3, eos_token_id=7, suppress_tokens=[9]
    )
    list(
        generate_answers(
            model, ScriptedTokenizer(), ScriptedCollator(), list(QUESTIONS), batch_size=5, max_new_tokens=5
        )
    )
    (config,) = model.configs
    assert (config.do_sample, config.num_beams, config.repetition_penalty, config.temperature) == (False, 1, 1.0, 1.0)
    assert config.max_new_tokens == 5
    # Both ends count: the backbone's, and the tokenizer's that targets were trained with.
    assert config.eos_token_id == [1, 7]
    assert config.suppress_tokens == [9]
    assert config.pad_token_id == 0


def test_padding_on_the_right_is_refused() -> None:
    class RightCollator(ScriptedCollator):
        def __call__(self, records: list[Any]) -> dict[str, torch.Tensor]:
            return {name: value.flip(1) for name, value in super().__call__(records).items()}

    with pytest.raises(ValueError, match="padding_side='left'"):
        next(
            generate_answers(
                ScriptedModel(ANSWERS),
                ScriptedTokenizer(),
                RightCollator(),
                list(QUESTIONS),
                batch_size=5,
                max_new_tokens=5,
            )
        )


def test_media_weigh_more_than_words_in_the_order() -> None:
    records = [{"question": question} for question in ("long words", "<v>", "<v><a>", "words", "<v> words")]
    order = order_by_length(records, ScriptedCollator.template, ScriptedCollator.processor)  # type: ignore[arg-type]
    assert [records[row]["question"] for row in order] == ["<v><a>", "<v> words", "<v>", "long words", "words"]
