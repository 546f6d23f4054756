"""Two processes do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moka.training import finetune
from tests.training.conftest import World
from tests.training.test_trainer import losses, metrics, weights

REPOSITORY = Path(__file__).resolve().parents[2]


def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(world: World, tmp_path: Path) -> None:
    common = world.no_dropout | {"max_steps": 3, "eval_questions": world.folder / "eval.jsonl"}
    common |= {"eval_strategy": "epoch"}
    batch = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    finetune(world.arguments(tmp_path / "one", **batch, **common))
    half = {key: size // 2 for key, size in batch.items()}
    argv = world.argv(tmp_path / "two", **half, **common)
    # `accelerate launch --cpu --num_processes 2` starts one process (without telling); torchrun starts two.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "train/finetune.py", *argv],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| processes | 2 |" in (tmp_path / "two" / "README.md").read_text()
    assert len(losses(tmp_path / "two")) == 3
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert eval_losses(tmp_path / "two") == pytest.approx(eval_losses(tmp_path / "one"), rel=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


def eval_losses(output_dir: Path) -> list[float]:
    return [event["eval_loss"] for event in metrics(output_dir) if "eval_loss" in event]
