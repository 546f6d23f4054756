"""What the child processes of the tests run; imported once by the fork server."""

import os
import signal
from typing import Any

import torch
from transformers import TrainerCallback

from moka.training import finetune, parse_arguments, run
from moka.training.trainer import MokaTrainer


def train(argv: list[str]) -> None:
    """An undisturbed run of stage 2."""
    torch.set_num_threads(1)
    finetune(parse_arguments(argv))


def train_until_killed_at(argv: list[str], step: int) -> None:
    """Kills itself when a step's update has been made, before it is logged or saved."""

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    class Killed(MokaTrainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.add_callback(Kill())

    run.MokaTrainer = Killed
    train(argv)


def train_until_killed_while_saving(argv: list[str], step: int) -> None:
    """Kills itself in the middle of writing a checkpoint: weights and optimizer are there, the rest is not."""

    class Killed(MokaTrainer):
        def _save_rng_state(self, output_dir: str) -> None:
            if self.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            super()._save_rng_state(output_dir)

    run.MokaTrainer = Killed
    train(argv)
