"""The audio-visual-text model, laid out as transformers' LLaVA: towers, projectors, language model, head."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple

from moka.omni.configuration import PLACEHOLDER_IDS, MokaOmniConfig
from moka.omni.generation import MediaGenerationMixin
from moka.omni.outputs import MokaOmniCausalLMOutputWithPast, MokaOmniModelOutputWithPast
from moka.omni.placeholders import AUDIO, IMAGE, VIDEO, Medium, items_per_row, no_input_ids
from moka.omni.projector import MokaProjector, QueryResampler
from moka.omni.towers import AUDIO_TOWERS, VISION_TOWERS

QUERY_STD = 0.02


class MokaOmniPreTrainedModel(PreTrainedModel):
    """What transformers has to know of the model."""

    config: MokaOmniConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "audio", "text")  # type: ignore[assignment]
    supports_gradient_checkpointing = True
    _no_split_modules = ["MokaProjector"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, QueryResampler):
            # Equal queries would stay equal.
            init.normal_(module.query, mean=0.0, std=QUERY_STD)


class MokaOmniModel(MokaOmniPreTrainedModel):
    """Language model trunk with a vision tower and an audio tower, each behind its projector.

    Args:
        config: Of the whole model.

    Raises:
        ValueError: The config lacks a placeholder token id.
    """

    def __init__(self, config: MokaOmniConfig) -> None:
        super().__init__(config)
        for name in PLACEHOLDER_IDS:
            if getattr(config, name) is None:
                raise ValueError(f"MokaOmniConfig.{name} is not set; it tells where features go")
        width = config.text_config.hidden_size
        self.language_model = AutoModel.from_config(config.text_config)
        self.vision_tower = self.vision_projector = self.audio_tower = self.audio_projector = None
        if config.vision_config is not None:
            self.vision_tower = VISION_TOWERS[config.vision_config.model_type].new(config.vision_config)
            self.vision_projector = MokaProjector(config.vision_projector, config.vision_config.hidden_size, width)
        if config.audio_config is not None:
            self.audio_tower = AUDIO_TOWERS[config.audio_config.model_type].new(config.audio_config)
            self.audio_projector = MokaProjector(config.audio_projector, config.audio_config.hidden_size, width)
        self.post_init()

    def train(self, mode: bool = True) -> "MokaOmniModel":
        """Set the mode of everything but frozen towers, which always evaluate: their dropout would only add noise."""
        super().train(mode)
        for tower in (self.vision_tower, self.audio_tower):
            if tower is not None and _is_frozen(tower):
                tower.eval()
        return self

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> (N, visual_tokens, language width)."""
        return self.project(IMAGE, pixel_values)

    def get_video_features(self, pixel_values_videos: Tensor) -> Tensor:
        """Frames (N, 3, H, W) -> (N, visual_tokens, language width)."""
        return self.project(VIDEO, pixel_values_videos)

    def get_audio_features(self, input_features: Tensor) -> Tensor:
        """Audio windows (W, frames, mel bins) -> (W, audio_tokens, language width)."""
        return self.project(AUDIO, input_features)

    def project(self, medium: Medium, values: Tensor) -> Tensor:
        """Encode and project the items of one medium.

        Args:
            medium: Which one; it has a tower.
            values: Items along dimension 0, as the tower takes them.
        """
        tower = cast(PreTrainedModel, getattr(self, medium.tower))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not _is_frozen(tower)):
            values = values.to(tower.dtype)
            if medium.tower == AUDIO.tower:
                kind = AUDIO_TOWERS[self.config.audio_config.model_type]
                features = tower(values).last_hidden_state[:, kind.prefix :]
            else:
                kind, layer = VISION_TOWERS[self.config.vision_config.model_type], self.config.vision_feature_layer
                # As a list, the layer is the only hidden state that is kept.
                features = tower(values, output_hidden_states=[layer]).hidden_states[layer][:, kind.prefix :]
        return getattr(self, medium.projector)(features)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        input_features: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> MokaOmniModelOutputWithPast:
        """Put the media's features where their placeholders are, and run the language model.

        Args:
            input_ids: (B, L); the embeddings of placeholder tokens are replaced.
            attention_mask: (B, L), 0 on padding.
            position_ids: (B, L).
            past_key_values: The cache.
            inputs_embeds: (B, L, width), instead of `input_ids`; then without media.
            pixel_values: Images (N, 3, H, W) of the whole batch, row after row.
            pixel_values_videos: Frames (N, 3, H, W) of the whole batch, row after row.
            input_features: Audio windows (W, frames, mel bins) of the whole batch, row after row.
            mm_token_type_ids: (B, L), for adapters; not used here.
            question_mask: (B, L), for adapters; not used here.
            **kwargs: For the language model.

        Raises:
            ValueError: Placeholders and media do not agree, a tower is missing, or media come without `input_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds")
        tensors = {IMAGE: pixel_values, VIDEO: pixel_values_videos, AUDIO: input_features}
        media = {medium: tensor for medium, tensor in tensors.items() if tensor is not None}
        features: dict[str, Tensor] = {}
        if input_ids is not None:
            items_per_row(input_ids, media, self.config)
            inputs_embeds = self.get_input_embeddings()(input_ids)
            for medium, values in media.items():
                projected = self.project(medium, values).to(inputs_embeds.device, inputs_embeds.dtype)
                places = input_ids == getattr(self.config, f"{medium.name}_token_id")
                inputs_embeds = inputs_embeds.masked_scatter(places.unsqueeze(-1), projected)
                features[f"{medium.name}_hidden_states"] = projected
        elif media:
            raise no_input_ids(media)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        return MokaOmniModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **features,
        )


class MokaOmniForConditionalGeneration(MokaOmniPreTrainedModel, MediaGenerationMixin):
    """`MokaOmniModel` with the language model's head: trains on text, answers questions about media.

    Args:
        config: Of the whole model.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: MokaOmniConfig) -> None:
        super().__init__(config)
        self.model = MokaOmniModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def freeze_backbones(self) -> None:
        """Freeze towers, language model and head; the projectors alone train."""
        self.requires_grad_(False)
        for projector in (self.model.vision_projector, self.model.audio_projector):
            if projector is not None:
                projector.requires_grad_(True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        input_features: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MokaOmniCausalLMOutputWithPast:
        """Predict the next tokens.

        Args:
            labels: (B, L), -100 where there is no loss.
            logits_to_keep: How many of the last positions get logits (0: all), or their indices.
            **kwargs: For the language model and the loss; all others as in `MokaOmniModel.forward`.

        Raises:
            ValueError: As `MokaOmniModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return MokaOmniCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            video_hidden_states=outputs.video_hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
        )


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())
