"""The README's demo, on a world of a few clips and backbones that have hardly learned anything."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moka.omni import load_adapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the demo printed, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "scripts/demo.py", "--world", "moka-micro", "--runs", str(folder / "runs")]
    command += ["--max_steps", "2", "--per_device_train_batch_size", "4"]
    environment = os.environ | {"MOKA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout, folder


def test_the_demo_prints_the_four_accuracies_by_type(demo: tuple[str, Path]) -> None:
    printed, folder = demo
    (questions,) = folder.glob("cache/tiny-*/test.jsonl")
    kinds = {json.loads(line)["type"] for line in questions.read_text().splitlines()}
    assert len(kinds) > 5
    header = next(line for line in printed.splitlines() if line.startswith("| Question type"))
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[1:] == ["most common answer", "question only", "projectors only", "MokA"]
    table = printed[printed.index(header) :]
    for kind in (*kinds, "Overall"):
        assert re.search(rf"^\| {kind} +\|( +[\d.]+ \|){{4}}$", table, re.MULTILINE), kind
    assert re.search(
        r"^MokA against the control, on the same \d+ questions: [+-][\d.]+ points; .* p = ", table, re.MULTILINE
    )


def test_every_step_is_a_command_a_user_could_type(demo: tuple[str, Path]) -> None:
    printed, _ = demo
    commands = [line for line in printed.splitlines() if line.startswith("$ ")]
    assert len(commands) == 7
    assert commands[2].startswith("$ accelerate launch train/finetune.py --config configs/demo.yaml")


def test_the_runs_are_complete_by_themselves(demo: tuple[str, Path]) -> None:
    _, folder = demo
    run = folder / "runs" / "moka"
    needed = {"adapter_config.json", "adapter_model.safetensors", "config.json", "data_config.json", "metrics.jsonl"}
    assert needed | {"README.md", "training_config.yaml"} <= {path.name for path in run.iterdir()}
    results = json.loads((run / "test" / "results.json").read_text())
    assert results["total"] == len((run / "test" / "predictions.jsonl").read_text().splitlines())


def test_a_run_loads_in_one_call(demo: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = demo
    monkeypatch.setenv("MOKA_CACHE", str(folder / "cache"))
    model, processor = load_adapter(folder / "runs" / "moka")
    inputs = processor(text="Are you there ?")
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
