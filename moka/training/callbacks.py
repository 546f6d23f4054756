"""What happens at log events: metrics.jsonl, and a log event before every checkpoint."""

import json
import math
import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MetricsFile(TrainerCallback):
    """Writes one JSON object per log event (step, epoch, loss, grad_norm, learning_rate, eval_loss, ...).

    A resumed run first rewrites the file from the checkpoint's own history: events that the interrupted run logged
    after its last checkpoint happen again, and would otherwise be there twice.

    Args:
        path: The file, usually `metrics.jsonl` in the output folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text("".join(map(_line, state.log_history)), encoding="utf-8")
            os.replace(partial, self.path)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(_line(state.log_history[-1]))


class LogAtCheckpoints(TrainerCallback):
    """Logs whenever a checkpoint or an evaluation is due, and at the last step.

    The Trainer averages the loss since the last log event and forgets that sum when it is interrupted; with an event
    at each checkpoint a resumed run logs the same numbers as an uninterrupted one.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save or control.should_evaluate or control.should_training_stop:
            control.should_log = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.on_step_end(args, state, control)


def _line(event: dict[str, Any]) -> str:
    # NaN and Infinity are not JSON; as text they stay visible and the file stays readable by any reader.
    values = {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in event.items()
    }
    return json.dumps(values) + "\n"
