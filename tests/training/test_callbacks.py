"""metrics.jsonl and the log events at checkpoints, without a model."""

import json
from pathlib import Path

from transformers import TrainerControl, TrainerState, TrainingArguments

from moka.training.callbacks import LogAtCheckpoints, MetricsFile

NO_ARGUMENTS: TrainingArguments = None  # type: ignore[assignment]


def log(callback: MetricsFile, state: TrainerState, **event: float) -> None:
    state.log_history.append(event)
    callback.on_log(NO_ARGUMENTS, state, TrainerControl())


def events(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    state = TrainerState(is_world_process_zero=True)
    callback = MetricsFile(path)
    callback.on_train_begin(NO_ARGUMENTS, state, TrainerControl())
    for step in (1, 2, 3):
        log(callback, state, step=step, loss=1 / step)
    with open(path, "a") as stream:
        stream.write('{"step": 4, "lo')  # the process was killed here
    resumed = TrainerState(
        is_world_process_zero=True, log_history=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    )
    callback = MetricsFile(path)
    callback.on_train_begin(NO_ARGUMENTS, resumed, TrainerControl())
    log(callback, resumed, step=3, loss=0.25)
    assert events(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    callback = MetricsFile(tmp_path / "metrics.jsonl")
    state = TrainerState(is_world_process_zero=False)
    callback.on_train_begin(NO_ARGUMENTS, state, TrainerControl())
    log(callback, state, step=1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stays_visible_and_the_line_stays_json(tmp_path: Path) -> None:
    callback = MetricsFile(tmp_path / "metrics.jsonl")
    state = TrainerState(is_world_process_zero=True)
    log(callback, state, step=1, loss=float("nan"), grad_norm=float("inf"))
    assert events(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": "nan", "grad_norm": "inf"}]


def test_a_checkpoint_an_evaluation_and_the_end_are_logged_and_other_steps_are_not() -> None:
    for due in ("should_save", "should_evaluate", "should_training_stop"):
        control = TrainerControl(**{due: True})
        LogAtCheckpoints().on_step_end(NO_ARGUMENTS, TrainerState(), control)
        assert control.should_log
    control = TrainerControl()
    LogAtCheckpoints().on_step_end(NO_ARGUMENTS, TrainerState(), control)
    assert not control.should_log
