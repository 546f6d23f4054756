"""What the child processes of the tests run."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import torch

from moka.evaluation import EvaluationArguments, Prediction, answer, evaluate
from moka.evaluation.predictions import append_predictions


def evaluate_until_killed_mid_line(arguments: EvaluationArguments, batches: int) -> None:
    """Kills itself when a batch is half written.

    Args:
        arguments: The evaluation's.
        batches: Batches that are written before.
    """
    torch.set_num_threads(1)
    written = 0

    def append_then_die(path: Path, rows: Iterable[Prediction]) -> None:
        nonlocal written
        rows = list(rows)
        before = path.stat().st_size if path.exists() else 0
        append_predictions(path, rows)
        written += bool(rows)
        if written > batches:
            os.truncate(path, before + (path.stat().st_size - before) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    answer.append_predictions = append_then_die
    evaluate(arguments)
