"""What the model's forwards return."""

from dataclasses import dataclass

from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput


@dataclass
class MokaOmniModelOutputWithPast(BaseModelOutputWithPast):
    """Output of the trunk; `*_hidden_states` are the projected features (items, tokens per item, width)."""

    image_hidden_states: Tensor | None = None
    video_hidden_states: Tensor | None = None
    audio_hidden_states: Tensor | None = None


@dataclass
class MokaOmniCausalLMOutputWithPast(ModelOutput):
    """Output with loss and logits; `*_hidden_states` are the projected features (items, tokens per item, width)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None
    video_hidden_states: Tensor | None = None
    audio_hidden_states: Tensor | None = None
