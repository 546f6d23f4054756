"""What `generate` has to know of media and questions."""

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import ModelOutput

from moka.omni.configuration import MokaOmniConfig
from moka.omni.placeholders import MEDIA, items_per_row, no_input_ids, repeat_per_row


class MediaGenerationMixin(GenerationMixin):
    """Repeats media with their rows for beams and samples, and carries `question_mask` through the steps."""

    config: MokaOmniConfig

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        question_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass media at the first step only, as transformers does, and cut `question_mask` to the step's tokens."""
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        if question_mask is not None:
            tokens = inputs["inputs_embeds"] if inputs["input_ids"] is None else inputs["input_ids"]
            inputs["question_mask"] = question_mask[:, -tokens.shape[1] :]
        return inputs

    def _update_model_kwargs_for_generation(
        self,
        outputs: ModelOutput,
        model_kwargs: dict[str, Any],
        is_encoder_decoder: bool = False,
        num_new_tokens: int = 1,
    ) -> dict[str, Any]:
        updated = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder, num_new_tokens
        )
        if updated.get("question_mask") is not None:
            # What is generated is no part of the question.
            updated["question_mask"] = nn.functional.pad(updated["question_mask"], (0, num_new_tokens))
        return updated

    def _expand_inputs_for_generation(  # type: ignore[override]
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat each row for beams or samples; its media, which have no batch dimension, along with it."""
        values = {medium: kwargs.pop(medium.argument, None) for medium in MEDIA}
        media = {medium: tensor for medium, tensor in values.items() if tensor is not None}
        if media and (input_ids is None or kwargs.get("inputs_embeds") is not None):
            raise no_input_ids(media)
        items = items_per_row(input_ids, media, self.config) if media and input_ids is not None else {}
        expanded, kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size,
            is_encoder_decoder=is_encoder_decoder,
            input_ids=input_ids,  # type: ignore[arg-type]
            **kwargs,
        )
        for medium, tensor in media.items():
            kwargs[medium.argument] = repeat_per_row(tensor, items[medium], expand_size)
        return expanded, kwargs
