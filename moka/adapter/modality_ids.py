"""Which modality each token is, in transformers' `mm_token_type_ids`: 0 text, 1 image, 2 video, 3 audio."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

TEXT = 0
_CODES = {"image": 1, "video": 2, "audio": 3}
# What the arguments that carry media are called across transformers, and the ids their tokens may have. Videos may
# come as `pixel_values`, frame by frame.
_MEDIA_ARGUMENTS = {
    "visual": (("pixel_values", "image_pixel_values", "image_patches"), {1, 2}),
    "audio": (("input_features", "input_values", "audio_input_features"), {3}),
}


def placeholder_codes(config: Any) -> dict[int, int]:
    """Map the placeholder token ids that a model's config (or a sub-config) declares to modality ids.

    Args:
        config (`PreTrainedConfig`): The config of the whole model; `image_token_id`, `image_token_index` and the like
            for video and audio are read from it and from its sub-configs.

    Returns:
        `dict[int, int]`: Token id -> modality id; empty for a text-only model. An id that is not set (`None`, or
        negative, which no token can be) is left out.
    """
    codes: dict[int, int] = {}
    for part in _with_sub_configs(config):
        for modality, code in _CODES.items():
            for name in (f"{modality}_token_id", f"{modality}_token_index"):
                token_id = getattr(part, name, None)
                if isinstance(token_id, int) and token_id >= 0:
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


def check_placeholders(inputs: Mapping[str, Any], config: Any) -> None:
    """Refuse media whose tokens cannot be told from text, because the config names no placeholder for them.

    Args:
        inputs (`Mapping[str, Any]`): The arguments of a forward or of `generate`.
        config (`PreTrainedConfig`): The config of the model they are for.

    Raises:
        ValueError: If an argument holds media of a kind that has no placeholder id.
    """
    known = set(placeholder_codes(config).values())
    for kind, (prefixes, codes) in _MEDIA_ARGUMENTS.items():
        passed = [name for name, value in inputs.items() if value is not None and name.startswith(prefixes)]
        # A mask alone brings no media.
        passed = [name for name in passed if not name.endswith("mask")]
        if passed and not known & codes:
            raise ValueError(
                f"{passed[0]} was passed, but the config of {type(config).__name__} names no {kind} placeholder token "
                "(`image_token_id`, `video_token_id`, `audio_token_id`, or `..._token_index`), so these media cannot "
                "be told from text: set it in the config, or pass `modality_ids` (or `mm_token_type_ids`) of shape "
                "(batch, length) with 0 text, 1 image, 2 video, 3 audio."
            )


def _with_sub_configs(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None:
            yield from _with_sub_configs(part)
