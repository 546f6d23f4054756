"""The MokA authors' audio-visual adapter files as ours."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from moka.adapter.config import MokaConfig

_NAME = re.compile(r"^base_model\.model\.(?P<layer>.+)\.lora_(?P<part>A0|A1|A2|B0)\.weight$")
# The order of our default slots: text, visual, audio.
_STACKED = ("A0", "A1", "A2")


def adapter_from_reference(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[MokaConfig, dict[str, Tensor]]:
    """Turn the content of the authors' `adapter_model.bin` and `adapter_config.json` into our config and weights.

    Their code scales by alpha / r before the attention, so `scale_before_attention` is set. A question that other
    tokens interrupt gives theirs keys of zeros in between; ours has the question's tokens alone.

    Args:
        weights (`Mapping[str, torch.Tensor]`): By the authors' names, ending in `lora_A0`, `A1`, `A2` (text, visual,
            audio) and `lora_B0`.
        settings (`Mapping[str, Any]`): `r` (one digit three times), `lora_alpha`, `lora_dropout`, `blc_weight` (the
            paper's lambda), `target_modules`.

    Returns:
        The config, and the weights by the names that PEFT saves and loads (`set_peft_model_state_dict`).

    Raises:
        ValueError: If settings or weights are not of that form; lists the names.
    """
    digits = str(settings.get("r"))
    if not re.fullmatch(r"([1-9])\1\1", digits):
        raise ValueError(f"r is {settings.get('r')!r}; the authors' files have one digit three times, such as 444.")
    rank = int(digits[0])
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, value in weights.items():
        match = _NAME.match(name)
        if match is None:
            unknown.append(name)
        else:
            parts.setdefault(match["layer"], {})[match["part"]] = value
    if unknown or not parts:
        raise ValueError(f"Not the weights of an authors' audio-visual adapter: unknown {unknown or 'none'}.")
    converted: dict[str, Tensor] = {}
    for layer, held in parts.items():
        missing = [f"base_model.model.{layer}.lora_{part}.weight" for part in (*_STACKED, "B0") if part not in held]
        if missing:
            raise ValueError(f"The adapter lacks {', '.join(missing)}.")
        shapes = {part: tuple(value.shape) for part, value in held.items()}
        if any(shapes[part] != (rank, shapes["A0"][-1]) for part in _STACKED) or shapes["B0"][-1] != rank:
            raise ValueError(f"{layer}: shapes {shapes} are not those of rank {rank}.")
        converted[f"base_model.model.{layer}.moka_A.weight"] = torch.cat([held[part] for part in _STACKED])
        converted[f"base_model.model.{layer}.moka_B.weight"] = held["B0"].clone()
    config = MokaConfig(
        r=rank,
        alpha=settings["lora_alpha"],
        dropout=settings.get("lora_dropout", 0.0),
        cross_weight=settings["blc_weight"],
        scale_before_attention=True,
        target_modules=list(settings["target_modules"]),
        task_type="CAUSAL_LM",
    )
    return config, converted
