"""The YAML files that come with the package."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from moka.data import PromptTemplate, Windowing
from moka.data.tiny import WINDOWING
from moka.data.tiny.captions import PROMPT
from moka.training import parse_arguments

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_accepted(path: Path) -> None:
    # bf16 asks for a GPU, or for leave to use the CPU.
    arguments = parse_arguments(["--config", str(path), "--use_cpu", "true"], adapter="pretrain" not in path.stem)
    assert arguments.training.output_dir == yaml.safe_load(path.read_text())["output_dir"]


@pytest.mark.parametrize("name", ["demo", "demo_pretrain"])
def test_the_demo_speaks_as_the_tiny_language_models_learned(name: str) -> None:
    values = yaml.safe_load((CONFIGS[0].parent / f"{name}.yaml").read_text())
    assert PromptTemplate(**values["prompt"]) == PROMPT
    sampled = {field.name: values[field.name] for field in dataclasses.fields(Windowing)}
    sampled["num_frames"] = WINDOWING.num_frames  # the picture stands still: any number shows it
    assert Windowing(**sampled) == WINDOWING
