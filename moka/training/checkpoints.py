"""Which checkpoint folders a run may resume from."""

import logging
import re
from pathlib import Path
from typing import Any

import yaml

from moka.training.arguments import Arguments, ConfigError

STAGING = ".checkpoint-incomplete"
"""Folder in the output folder in which a checkpoint is written before it gets its name by one rename."""

logger = logging.getLogger(__name__)

TRAINING_CONFIG = "training_config.yaml"

_NEEDED = (
    ("trainer_state.json",),
    ("optimizer.pt",),
    ("scheduler.pt",),
    ("adapter_model.safetensors", "projectors.safetensors"),
    ("rng_state.pth", "rng_state_0.pth"),
)

# What decides the weights a run ends with. The rest (where files lie, how often to log) may differ after a resume.
_DECIDING = [
    "language_model",
    "vision_tower",
    "audio_tower",
    "vision_projector",
    "audio_projector",
    "vision_feature_layer",
    "projectors",
    "dtype",
    "questions",
    "schema",
    "video_pattern",
    "audio_pattern",
    "num_frames",
    "num_windows",
    "window_seconds",
    "window_offset",
    "prompt",
    "max_length",
    "adapter",
    "r",
    "alpha",
    "dropout",
    "cross_weight",
    "use_rslora",
    "scale_before_attention",
    "modalities",
    "target_modules",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "dataloader_drop_last",
    "train_sampling_strategy",
]


def missing_files(checkpoint: str | Path) -> list[str]:
    """Names the files a checkpoint folder lacks to be resumed from; empty when it is complete."""
    folder = Path(checkpoint)
    return [" or ".join(names) for names in _NEEDED if not any((folder / name).is_file() for name in names)]


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the complete checkpoint folder with the highest step, or None."""
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if match and not missing_files(folder):
            found.append((int(match[1]), folder))
    return max(found)[1] if found else None


def checkpoint_to_resume(arguments: Arguments) -> Path | None:
    """Decides where a run starts: at a checkpoint, or (None) at the beginning.

    Raises:
        ConfigError: The named folder is no complete checkpoint; the output folder holds a run that was not to be
            resumed; the checkpoint's run had other settings.
    """
    resume, output_dir = arguments.training.resume, Path(arguments.training.output_dir)
    if isinstance(resume, str):
        checkpoint: Path | None = Path(resume)
        missing = missing_files(resume)
        if missing:
            raise ConfigError(
                f"resume_from_checkpoint: {resume!r} is not a complete checkpoint: no {', no '.join(missing)}"
            )
    else:
        checkpoint = last_checkpoint(output_dir)
    if checkpoint is None:
        if resume:
            logger.warning("resume_from_checkpoint: %s holds no checkpoint, so the run starts anew", output_dir)
        if any((output_dir / name).exists() for name in ("adapter_model.safetensors", "projectors.safetensors")):
            logger.warning("output_dir: %s holds an earlier run's result, which this run will replace", output_dir)
        return None
    if not resume:
        raise ConfigError(
            f"output_dir: {output_dir} already holds {checkpoint.name} of an earlier run; go on from it with "
            "--resume_from_checkpoint true, or choose another output_dir"
        )
    _refuse_other_settings(checkpoint.parent / TRAINING_CONFIG, arguments)
    return checkpoint


def _refuse_other_settings(path: Path, arguments: Arguments) -> None:
    if not path.is_file():
        return
    before: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = arguments.to_dict()
    differing = [key for key in _DECIDING if key in before and before.get(key) != now.get(key)]
    if differing:
        changes = "; ".join(f"{key} was {before[key]!r} and is {now.get(key)!r}" for key in differing)
        raise ConfigError(
            f"cannot resume the run of {path}: {changes}; restore it, or start anew in another output_dir "
            "without resume_from_checkpoint"
        )
