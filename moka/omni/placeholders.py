"""Matching the placeholder tokens in a text with the media that replace them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moka.omni.configuration import MokaOmniConfig


@dataclass(frozen=True)
class Medium:
    """One kind of media input.

    Args:
        name: "image", "video" or "audio".
        argument: The forward's argument that holds it, its items (images, frames, windows) along dimension 0.
        tower: The encoder that reads it.
        projector: What projects the encoder's tokens.
        tokens: The config's property that tells the tokens per item.
    """

    name: str
    argument: str
    tower: str
    projector: str
    tokens: str


IMAGE = Medium("image", "pixel_values", "vision_tower", "vision_projector", "visual_tokens")
VIDEO = Medium("video", "pixel_values_videos", "vision_tower", "vision_projector", "visual_tokens")
AUDIO = Medium("audio", "input_features", "audio_tower", "audio_projector", "audio_tokens")
MEDIA = (IMAGE, VIDEO, AUDIO)

Counts = dict[Medium, list[int]]


def count_placeholders(input_ids: Tensor, config: MokaOmniConfig) -> Counts:
    """How many placeholders of each medium each row has.

    Args:
        input_ids: (B, L).
        config: Names the placeholder ids.
    """
    ids = torch.tensor([getattr(config, f"{medium.name}_token_id") for medium in MEDIA], device=input_ids.device)
    # One transfer from the device for all media.
    counts = (input_ids.unsqueeze(0) == ids.view(-1, 1, 1)).sum(-1).tolist()
    return dict(zip(MEDIA, counts, strict=True))


def items_per_row(input_ids: Tensor, media: Mapping[Medium, Tensor], config: MokaOmniConfig) -> Counts:
    """Which media belong to which row: they are concatenated over the batch, in the order of their placeholders.

    Args:
        input_ids: (B, L).
        media: The tensors passed to the model.
        config: Tells placeholders and tokens per item.

    Returns:
        The number of items of each medium passed, by row.

    Raises:
        ValueError: Placeholders and media do not agree, or the model has no tower for a medium.
    """
    counts = count_placeholders(input_ids, config)
    return {medium: _items(medium, counts[medium], media.get(medium), config) for medium in MEDIA}


def _items(medium: Medium, counts: list[int], values: Tensor | None, config: MokaOmniConfig) -> list[int]:
    tokens: int | None = getattr(config, medium.tokens)
    rows = ", ".join(f"row {row}: {count}" for row, count in enumerate(counts) if count) or "none"
    if values is None:
        if any(counts):
            raise ValueError(
                f"input_ids has {sum(counts)} {medium.name} placeholders ({rows}) but {medium.argument} was not "
                "passed; pass the media, or leave the placeholders out"
            )
        return counts
    if tokens is None:
        raise ValueError(
            f"{medium.argument} was passed, but this model has no {medium.tower}; assemble it with one or leave "
            f"the {medium.name} out"
        )
    uneven = next((row for row, count in enumerate(counts) if count % tokens), None)
    if uneven is not None:
        raise ValueError(
            f"row {uneven} has {counts[uneven]} {medium.name} placeholders, which is not a multiple of the {tokens} "
            f"tokens an item of {medium.argument} takes; expand the text with the model's processor"
        )
    if sum(counts) != tokens * len(values):
        raise ValueError(
            f"{medium.argument} holds {len(values)} items of {tokens} tokens, so {tokens * len(values)} {medium.name} "
            f"placeholders are expected; input_ids has {sum(counts)} ({rows})"
        )
    return [count // tokens for count in counts]


def repeat_per_row(values: Tensor, items: list[int], times: int) -> Tensor:
    """Repeat each row's media as `repeat_interleave` repeats the rows: all of row 0, again all of row 0, row 1 ...

    Args:
        values: (sum of items, ...).
        items: Items of each row.
        times: How often each row is repeated.
    """
    return torch.cat([block for block in values.split(items) for _ in range(times)])


def no_input_ids(media: Mapping[Medium, Tensor]) -> ValueError:
    """The error for media that come with `inputs_embeds`."""
    names = ", ".join(medium.argument for medium in media)
    return ValueError(
        f"{names} passed with inputs_embeds and no input_ids: without ids the placeholders cannot be found; pass "
        "input_ids, or embeds into which the media's features are already put"
    )
