"""What a trained folder holds: the weights that were trained and everything needed to load and evaluate them."""

import copy
import os
import shutil
from pathlib import Path
from typing import cast

import torch
import yaml
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from moka.omni import MokaOmniForConditionalGeneration, MokaOmniProcessor, save_projectors
from moka.training.arguments import Arguments
from moka.training.checkpoints import TRAINING_CONFIG

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def save_weights(
    model: MokaOmniForConditionalGeneration | PeftModel,
    processor: MokaOmniProcessor,
    folder: str | Path,
    *,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes what was trained (adapter with projectors, or projectors alone), the model's config and the processor.

    Args:
        model: The omni model, or a PeftModel around it. Frozen weights are never written.
        processor: Its processor.
        folder: Where to; made when missing.
        state_dict: The model's weights where a wrapper had to gather them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        adapter = model.active_adapter
        weights = get_peft_model_state_dict(
            model, state_dict=state_dict, adapter_name=adapter, save_embedding_layers=False
        )
        weights = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
        save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        peft_config = copy.copy(model.peft_config[adapter])
        peft_config.inference_mode = True
        peft_config.save_pretrained(str(folder))
        cast(PreTrainedModel, model.get_base_model()).config.save_pretrained(folder)
    else:
        save_projectors(model, folder)
    processor.save_pretrained(folder)


def save_training_config(folder: str | Path, arguments: Arguments) -> None:
    """Writes every argument of the run; the file can be given back as `--config`.

    Args:
        folder: Where to; made when missing.
        arguments: The run's arguments.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{TRAINING_CONFIG}.partial"
    partial.write_text(yaml.safe_dump(arguments.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(partial, folder / TRAINING_CONFIG)


def remove_stale_weights(folder: Path, written: Path) -> None:
    """Removes weights of an earlier run of another kind, which loading would take for this run's.

    Args:
        folder: The output folder.
        written: Holds the files of this run.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors", "projectors.safetensors"):
        if not (written / name).exists():
            (folder / name).unlink(missing_ok=True)


def move_files(source: Path, target: Path) -> None:
    """Moves each file of a folder into another one, each by one rename, so that none is ever half written.

    Args:
        source: Folder on the same file system; gone afterwards.
        target: Folder that may hold older versions of the files.
    """
    for path in source.iterdir():
        os.replace(path, target / path.name)
    shutil.rmtree(source)
