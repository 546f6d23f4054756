"""What `generate` must remember of its prompt: later forwards see only a slice of it, or more than it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moka.adapter.modality_ids import TEXT


@dataclass(frozen=True)
class Prompt:
    """The prompt of a running `generate`.

    Args:
        modality_ids (`torch.Tensor` of shape `(prompts, length)`): `mm_token_type_ids` of the prompt.
        question_mask (`torch.Tensor` of shape `(prompts, length)`, bool): Tokens that media may attend to. Generated
            tokens are never among them, so that cached and uncached generation agree.
    """

    modality_ids: Tensor
    question_mask: Tensor

    def chunk(self, shape: torch.Size, cache: Any, *, attends: bool) -> tuple[Tensor, Tensor] | None:
        """Return the modality ids and the question mask of one forward's tokens.

        Args:
            shape (`torch.Size`): `(batch, length)` of the forward's input.
            cache (`transformers.Cache`, *optional*): The key-value cache, whose length says where the input starts.
            attends (`bool`): Whether media attend to the question.

        Returns:
            Two tensors of that shape, or `None` if the forward lies behind the prompt: all its tokens are text.

        Raises:
            ValueError: If the batch is no multiple of the prompts, or a forward sees media without their question.
        """
        start = 0 if cache is None else int(cache.get_seq_length())
        batch, length = shape
        prompts, prompt_length = self.modality_ids.shape
        if start >= prompt_length:
            return None
        if batch % prompts:
            raise ValueError(f"generate() runs a batch of {batch}, which is no multiple of its {prompts} prompts.")
        if attends and (start > 0 or length < prompt_length):
            self._check_split(start, start + length)
        copies, missing = batch // prompts, max(0, start + length - prompt_length)
        ids = F.pad(self.modality_ids[:, start : start + length], (0, missing), value=TEXT)
        question = F.pad(self.question_mask[:, start : start + length], (0, missing), value=False)
        return ids.repeat_interleave(copies, 0), question.repeat_interleave(copies, 0)

    def _check_split(self, start: int, end: int) -> None:
        """Media attend to the question, so a forward must see both or neither."""
        question = self.question_mask & (self.modality_ids == TEXT)
        media = self.modality_ids > TEXT
        media_without_question = media[:, start:end].any(1) & (question[:, :start].any(1) | question[:, end:].any(1))
        question_without_media = question[:, start:end].any(1) & media[:, :start].any(1)
        if (media_without_question | question_without_media).any():
            raise ValueError(
                f"generate() processes prompt tokens {start}..{end - 1} apart from the rest, but MokA's media tokens "
                "attend to the question: both must be in one forward. Turn off chunked prefill and do not reuse a "
                "cache that holds media from before this question, or use MokaConfig(cross_weight=0)."
            )
