"""Saving and loading what was trained, without the frozen backbones."""

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from moka.omni.assemble import assemble
from moka.omni.configuration import PLACEHOLDER_IDS, MokaOmniConfig
from moka.omni.modeling import MokaOmniForConditionalGeneration
from moka.omni.processing import MokaOmniProcessor

PROJECTORS = "projectors.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
# No pickles, no code.
HUB_FILES = ("*.safetensors", "*.json", "*.yaml", "*.md", "*.txt", "*.jinja")
TOWERS = {"vision_tower": "vision_config", "audio_tower": "audio_config"}
# What a shape does not tell, and yet changes what the weights compute.
PROJECTOR_FIELDS = ("vision_projector", "audio_projector", "vision_feature_layer")


def save_projectors(
    model: MokaOmniForConditionalGeneration, folder: str | Path, processor: ProcessorMixin | None = None
) -> None:
    """Write the projectors' weights and the model's config.

    Args:
        model: The model; not one wrapped by PEFT, whose `save_pretrained` writes the projectors with the adapter.
        folder: Where to; made when missing.
        processor: Written too when given: `load_adapter` needs it in the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: parameter.detach().contiguous() for name, parameter in _projector_parameters(model).items()}
    save_file(weights, folder / PROJECTORS, metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)


def load_projectors(model: MokaOmniForConditionalGeneration, folder: str | Path) -> None:
    """Read the projectors' weights into a model, whose dtypes stay.

    Args:
        model: The model; it may have other backbones of the same widths.
        folder: Written by `save_projectors`.

    Raises:
        FileNotFoundError: No projectors in the folder.
        ValueError: Projectors of another kind, or a weight that is missing, superfluous or of another shape.
    """
    folder = Path(folder)
    file = folder / PROJECTORS
    if not file.is_file():
        lack = f"it has no {PROJECTORS}" if folder.is_dir() else f"there is no such folder (from {Path.cwd()})"
        raise FileNotFoundError(f"{folder} holds no projectors: {lack}; train/pretrain.py writes them")
    saved = read_config(folder)
    for name in PROJECTOR_FIELDS:
        ours, theirs = _plain(getattr(model.config, name)), _plain(getattr(saved, name))
        if ours != theirs:
            raise ValueError(f"{file} is for {name}={theirs}, the model has {name}={ours}; assemble it likewise")
    _refuse_other_families(folder, saved, model.config)
    weights, parameters = load_file(file), _projector_parameters(model)
    for name in [*parameters, *weights]:
        if name not in weights or name not in parameters:
            problem = "lacks" if name not in weights else "has, beside the model's weights,"
            raise ValueError(f"{file} {problem} {name}: it was written by another model")
        if weights[name].shape != parameters[name].shape:
            raise ValueError(
                f"{file}: {name} has shape {tuple(weights[name].shape)}, the model's {tuple(parameters[name].shape)}; "
                "are the backbones those it was trained with?"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def load_adapter(
    folder_or_hub_id: str | Path,
    *,
    language_model: str | None = None,
    vision_tower: str | None = None,
    audio_tower: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel | PeftModel, MokaOmniProcessor]:
    """Load a trained model: its backbones, and the adapter with projectors, or the projectors alone.

    Args:
        folder_or_hub_id: What training wrote.
        language_model: Where the backbone is; where it was at training when None.
        vision_tower: The same.
        audio_tower: The same.
        dtype: Of the backbones; the language model's own when None.
        device: Where the model goes; the CPU when None.

    Returns:
        The model in eval mode (a PeftModel if there is an adapter) and the processor it was trained with.

    Raises:
        FileNotFoundError: The folder lacks a part.
        ValueError: The folder is not of this kind, or does not fit the backbones.
    """
    folder = Path(folder_or_hub_id)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(folder_or_hub_id), allow_patterns=list(HUB_FILES)))
    saved = read_config(folder)
    given = {"language_model": language_model, "vision_tower": vision_tower, "audio_tower": audio_tower}
    model, _ = assemble(
        **_backbones(folder, saved, given),
        vision_projector=saved.vision_projector,
        audio_projector=saved.audio_projector,
        vision_feature_layer=saved.vision_feature_layer,
        dtype=dtype,
    )
    _refuse_other_families(folder, saved, model.config)
    processor = MokaOmniProcessor.from_pretrained(folder)
    for name in PLACEHOLDER_IDS:
        if getattr(model.config, name) != getattr(saved, name):
            raise ValueError(
                f"{folder} was trained with {name}={getattr(saved, name)}, but with this language model it is "
                f"{getattr(model.config, name)}: its tokenizer is another"
            )
    loaded: PreTrainedModel | PeftModel = model
    if (folder / ADAPTER_CONFIG).is_file():
        loaded = _load_peft(model, folder)
    else:
        load_projectors(model, folder)
    return cast(Any, loaded).to(device or "cpu").eval(), processor


def read_config(folder: Path) -> MokaOmniConfig:
    """Read the config of a trained folder.

    Raises:
        FileNotFoundError: No config.json.
        ValueError: It is of another model.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    kind = MokaOmniConfig.get_config_dict(folder)[0].get("model_type")
    if kind != MokaOmniConfig.model_type:
        raise ValueError(f"{folder}/config.json is of a {kind!r} model, not of {MokaOmniConfig.model_type!r}")
    return MokaOmniConfig.from_pretrained(folder)


def _refuse_other_families(folder: Path, saved: MokaOmniConfig, config: MokaOmniConfig) -> None:
    """Trained weights mean nothing on another family of backbones, even where the sizes agree."""
    for name in ("text_config", "vision_config", "audio_config"):
        theirs, ours = (getattr(getattr(one, name), "model_type", None) for one in (saved, config))
        if theirs != ours:
            raise ValueError(
                f"{folder} was trained with {name.removesuffix('_config')} backbone {theirs!r}, this one is {ours!r}: "
                "use the backbones it was trained with, or train anew on these"
            )


def _backbones(folder: Path, saved: MokaOmniConfig, given: dict[str, str | None]) -> dict[str, Any]:
    for tower, field in TOWERS.items():
        if given[tower] is not None and getattr(saved, field) is None:
            raise ValueError(f"{tower}={given[tower]!r} was given, but the model in {folder} was trained without one")
    recorded = saved.backbones or {}
    names = {role: given[role] or recorded.get(role) for role in given}
    for role in ("language_model", *(tower for tower, field in TOWERS.items() if getattr(saved, field) is not None)):
        if names[role] is None:
            raise ValueError(f"{folder}/config.json does not tell the {role} under 'backbones'; pass {role}=")
    return names


def _load_peft(model: MokaOmniForConditionalGeneration, folder: Path) -> PeftModel:
    if not (folder / ADAPTER).is_file():
        raise FileNotFoundError(f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER}")
    adapted = PeftModel.from_pretrained(model, folder)
    # PEFT only warns of weights it does not find, and runs with random ones.
    with safe_open(folder / ADAPTER, framework="pt") as file:
        stored = set(file.keys())
    needed = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    for problem, names in (("lacks", needed - stored), ("has, beside the model's weights,", stored - needed)):
        if names:
            raise ValueError(f"{folder / ADAPTER} {problem} {len(names)} weights, such as {min(names)}")
    return adapted


def _projector_parameters(model: MokaOmniForConditionalGeneration) -> dict[str, Tensor]:
    projectors = {"vision_projector": model.model.vision_projector, "audio_projector": model.model.audio_projector}
    return {
        f"{name}.{key}": parameter
        for name, projector in projectors.items()
        if projector is not None
        for key, parameter in projector.named_parameters()
    }


def _plain(value: Any) -> Any:
    """A config's own fields, without what transformers adds to it."""
    names = ("type", "num_queries", "hidden_size", "num_layers", "num_heads", "intermediate_size")
    return {name: getattr(value, name) for name in names} if hasattr(value, "num_queries") else value
