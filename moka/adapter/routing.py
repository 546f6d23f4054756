"""How every adapted layer gets to know each token's slot and the question tokens, computed once a forward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moka.adapter.config import MokaConfig

PADDING = -1
_UNKNOWN = -2
TEXT_SLOT = 0


@dataclass(frozen=True)
class Routing:
    """One forward's routing of tokens to slots.

    Args:
        slots (`torch.Tensor` of shape `(batch, length)`, *optional*): Slot of every token, -1 for padding. `None`
            says that every token is text, as in a decoding step.
        keys (`torch.Tensor` of shape `(batch, questions)`, *optional*): Positions of the question tokens, each
            sample's first. `None` when there is nothing to attend (no media, or no attention).
        key_mask (`torch.Tensor` of shape `(batch, questions)`, *optional*): Which of `keys` are real.
    """

    slots: Tensor | None
    keys: Tensor | None = None
    key_mask: Tensor | None = None

    def select(self, a: Tensor, rank: int) -> Tensor:
        """Take for every token the rows of its own slot: `(batch, length, slots*r)` -> `(batch, length, r)`."""
        assert self.slots is not None
        by_slot = a.unflatten(-1, (-1, rank))
        slot = self.slots.clamp(min=0)[..., None, None].expand(-1, -1, 1, rank)
        return by_slot.gather(2, slot).squeeze(2).masked_fill(self.slots.unsqueeze(-1) == PADDING, 0)

    def attend(self, z: Tensor) -> Tensor | None:
        """Let media tokens attend to the question in the rank space: `softmax(z K^T / sqrt(r)) K`.

        Args:
            z (`torch.Tensor` of shape `(batch, length, r)`): The down-projected tokens.

        Returns:
            `torch.Tensor` of the same shape, 0 for tokens that are not media; `None` if there is nothing to attend.
        """
        if self.keys is None or self.key_mask is None or self.slots is None:
            return None
        rank = z.shape[-1]
        keys = z.gather(1, self.keys.unsqueeze(-1).expand(-1, -1, rank))
        scores = (z @ keys.transpose(1, 2)).float() / math.sqrt(rank)
        # A finite floor: samples without a question have no media either, and their rows must not become NaN.
        scores = scores.masked_fill(~self.key_mask.unsqueeze(1), torch.finfo(scores.dtype).min)
        attended = torch.softmax(scores, dim=-1).to(keys.dtype) @ keys
        return attended.masked_fill((self.slots <= TEXT_SLOT).unsqueeze(-1), 0)


TEXT_ONLY = Routing(slots=None)


def build_routing(
    modality_ids: Tensor, valid: Tensor | None, question_mask: Tensor | None, config: MokaConfig
) -> Routing:
    """Turn modality ids into one adapter's routing, with a single transfer to the host for all checks.

    Args:
        modality_ids (`torch.Tensor` of shape `(batch, length)`): `mm_token_type_ids`; -1 marks padding.
        valid (`torch.Tensor` of shape `(batch, length)`, bool, *optional*): False at padding.
        question_mask (`torch.Tensor` of shape `(batch, length)`, bool, *optional*): The question's tokens. `None` says
            that it is not known, which is an error once media need it.
        config (`MokaConfig`): The adapter.

    Returns:
        `Routing`.

    Raises:
        ValueError: For an id in no slot, or media without a question to attend to.
    """
    slots = torch.full_like(modality_ids, _UNKNOWN)
    for slot, codes in enumerate(config.modalities.values()):
        for code in codes:
            slots.masked_fill_(modality_ids == code, slot)
    slots.masked_fill_(modality_ids == PADDING, PADDING)
    if valid is not None:
        slots.masked_fill_(~valid, PADDING)
    has_media = (slots > TEXT_SLOT).any(1)
    is_key = slots == TEXT_SLOT
    is_key = torch.zeros_like(is_key) if question_mask is None else is_key & question_mask
    key_counts = is_key.sum(1)
    unknown, any_media, missing, longest = torch.stack(
        [(slots == _UNKNOWN).sum(), has_media.sum(), (has_media & (key_counts == 0)).sum(), key_counts.max()]
    ).tolist()
    if unknown:
        raise ValueError(_unknown_ids(modality_ids, slots, config.modalities))
    if config.cross_weight == 0 or not any_media:
        return Routing(slots)
    if missing:
        rows = (has_media & (key_counts == 0)).nonzero().flatten().tolist()
        raise ValueError(_missing_question(rows, known=question_mask is not None))
    # A stable sort moves each sample's question tokens to the front, in order.
    keys = is_key.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    return Routing(slots, keys, is_key.gather(1, keys))


def _unknown_ids(modality_ids: Tensor, slots: Tensor, modalities: Mapping[str, Sequence[int]]) -> str:
    where = (slots == _UNKNOWN).nonzero()[0].tolist()
    values = modality_ids[slots == _UNKNOWN].unique().tolist()
    return (
        f"The modality ids hold {values} (first at row {where[0]}, token {where[1]}), which no slot of "
        f"MokaConfig.modalities={dict(modalities)} takes: add a slot for them, or correct the ids (-1 is padding)."
    )


def _missing_question(rows: list[int], *, known: bool) -> str:
    if known:
        return (
            f"Rows {rows} have media tokens but no question tokens to attend to. Mark the question in "
            "`question_mask`, leave its tokens at -100 in `labels`, or use MokaConfig(cross_weight=0)."
        )
    return (
        f"Rows {rows} have media tokens, and in training the question cannot be told from the answer. Pass "
        "`labels` (the question's tokens at -100) or `question_mask`, or use MokaConfig(cross_weight=0)."
    )
