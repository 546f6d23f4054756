"""Which modality each token is, in transformers' `mm_token_type_ids`: 0 text, 1 image, 2 video, 3 audio."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TEXT = 0
_CODES = {"image": 1, "video": 2, "audio": 3}


def placeholder_codes(config: Any) -> dict[int, int]:
    """Map the placeholder token ids that a model's config (or a sub-config) declares to modality ids.

    Args:
        config (`PreTrainedConfig`): The config of the whole model; `image_token_id`, `image_token_index` and the like
            for video and audio are read from it and from its sub-configs.

    Returns:
        `dict[int, int]`: Token id -> modality id; empty for a text-only model.
    """
    codes: dict[int, int] = {}
    for part in _with_sub_configs(config):
        for modality, code in _CODES.items():
            for name in (f"{modality}_token_id", f"{modality}_token_index"):
                token_id = getattr(part, name, None)
                if isinstance(token_id, int):
                    codes.setdefault(token_id, code)
    return codes


def modality_ids_from_tokens(input_ids: Tensor, config: Any) -> Tensor:
    """Derive modality ids from placeholder tokens.

    Args:
        input_ids (`torch.Tensor` of shape `(batch, length)`): Tokens, one placeholder per media feature.
        config (`PreTrainedConfig`): The config of the model they are for.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, int64.
    """
    ids = torch.zeros_like(input_ids)
    for token_id, code in placeholder_codes(config).items():
        ids.masked_fill_(input_ids == token_id, code)
    return ids


def _with_sub_configs(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None:
            yield from _with_sub_configs(part)
