"""A run that is killed and resumed ends as if nothing had happened."""

import json
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moka.training import ConfigError
from moka.training.checkpoints import STAGING, checkpoint_to_resume, last_checkpoint
from tests.training import jobs
from tests.training.conftest import World

KILLED = -9
# Two epochs of three steps, the last of a smaller batch. What is logged is the mean loss since the last event, so
# logging_steps beyond save_steps tells whether that mean survives an interruption.
SETTINGS = {
    "max_steps": None,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 5,
    "dropout": 0.2,
    "save_steps": 2,
    "logging_steps": 4,
}


@pytest.fixture(scope="module")
def uninterrupted(world: World, processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = processes.Process(target=jobs.train, args=(world.argv(output_dir, **SETTINGS),))
    process.start()
    process.join()
    assert process.exitcode == 0
    return output_dir


def history(output_dir: Path) -> list[dict[str, Any]]:
    """The logged events without how long they took."""
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if "train_runtime" not in event]


def assert_same_weights(output_dir: Path, expected: Path) -> None:
    name = "adapter_model.safetensors"
    ours, theirs = load_file(output_dir / name), load_file(expected / name)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def assert_same_outcome(output_dir: Path, expected: Path) -> None:
    assert_same_weights(output_dir, expected)
    assert history(output_dir) == history(expected)
    assert [event["step"] for event in history(output_dir)] == [2, 4, 6]


def test_killed_at_a_step_while_saving_and_again_it_ends_bit_equal(
    world: World, uninterrupted: Path, job: Callable[..., int], tmp_path: Path
) -> None:
    argv = world.argv(tmp_path / "run", resume_from_checkpoint="true", **SETTINGS)
    assert job(jobs.train_until_killed_at, argv, 1) == KILLED
    assert last_checkpoint(tmp_path / "run") is None
    assert job(jobs.train_until_killed_at, argv, 3) == KILLED
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-2"
    assert job(jobs.train_until_killed_while_saving, argv, 4) == KILLED
    assert (tmp_path / "run" / STAGING / "checkpoint-4" / "adapter_model.safetensors").is_file()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-2"
    assert job(jobs.train_until_killed_at, argv, 5) == KILLED
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-4"
    assert job(jobs.train, argv) == 0
    assert_same_outcome(tmp_path / "run", uninterrupted)
    assert not (tmp_path / "run" / STAGING).exists()


def test_killed_from_outside_at_any_moment_it_ends_bit_equal(
    world: World, uninterrupted: Path, processes: ForkServerContext, job: Callable[..., int], tmp_path: Path
) -> None:
    argv = world.argv(tmp_path / "run", resume_from_checkpoint="true", **SETTINGS)
    process = processes.Process(target=jobs.train, args=(argv,))
    process.start()
    while not (tmp_path / "run" / "checkpoint-2").exists():
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == KILLED
    assert job(jobs.train, argv) == 0
    assert_same_outcome(tmp_path / "run", uninterrupted)


def test_killed_after_a_checkpoint_at_the_end_of_an_epoch_it_ends_bit_equal(
    world: World, uninterrupted: Path, job: Callable[..., int], tmp_path: Path
) -> None:
    settings = SETTINGS | {"save_strategy": "epoch", "resume_from_checkpoint": "true"}
    argv = world.argv(tmp_path / "run", **settings)
    assert job(jobs.train_until_killed_at, argv, 5) == KILLED
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert job(jobs.train, argv) == 0
    assert_same_weights(tmp_path / "run", uninterrupted)


def test_an_incomplete_checkpoint_is_passed_over_and_refused_when_named(
    world: World, uninterrupted: Path, tmp_path: Path
) -> None:
    complete, torn = tmp_path / "checkpoint-4", tmp_path / "checkpoint-10"
    for folder in (complete, torn):
        folder.mkdir()
        for file in filter(Path.is_file, (uninterrupted / "checkpoint-4").iterdir()):
            (folder / file.name).write_bytes(file.read_bytes())
    assert last_checkpoint(tmp_path) == torn
    (torn / "optimizer.pt").unlink()
    assert last_checkpoint(tmp_path) == complete
    with pytest.raises(ConfigError, match=r"checkpoint-10' is not a complete checkpoint: no optimizer\.pt"):
        checkpoint_to_resume(world.arguments(tmp_path / "new", resume_from_checkpoint=torn))


def test_a_run_that_starts_anew_says_so(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        assert checkpoint_to_resume(world.arguments(tmp_path)) is None
        assert not caplog.messages
        (tmp_path / "projectors.safetensors").touch()
        assert checkpoint_to_resume(world.arguments(tmp_path, resume_from_checkpoint="true")) is None
    assert "holds no checkpoint, so the run starts anew" in caplog.messages[0]
    assert "holds an earlier run's result, which this run will replace" in caplog.messages[1]


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(world: World, uninterrupted: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"already holds checkpoint-6 of an earlier run; go on .*--resume_from_checkpoint true"
    ):
        checkpoint_to_resume(world.arguments(uninterrupted, **SETTINGS))
    changed = SETTINGS | {"resume_from_checkpoint": "true", "learning_rate": 0.5, "num_frames": 3}
    with pytest.raises(ConfigError, match=r"num_frames was 2 and is 3; learning_rate was 0\.01 and is 0\.5"):
        checkpoint_to_resume(world.arguments(uninterrupted, **changed))
    harmless = SETTINGS | {"resume_from_checkpoint": "true", "save_total_limit": 1, "media_cache": "/elsewhere"}
    assert checkpoint_to_resume(world.arguments(uninterrupted, **harmless)).name == "checkpoint-6"


def test_a_checkpoint_holds_trained_weights_only_and_old_ones_go(world: World, uninterrupted: Path) -> None:
    assert sorted(path.name for path in uninterrupted.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    checkpoint = uninterrupted / "checkpoint-6"
    names = set(load_file(checkpoint / "adapter_model.safetensors"))
    assert all("moka_" in name or "_projector." in name for name in names)
    files = {path.name for path in checkpoint.iterdir()}
    assert not files & {"model.safetensors", "pytorch_model.bin", "training_args.bin"}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "data_config.json"} <= files
