"""A language model, a vision tower and an audio tower, pretrained apart, as one model."""

import copy
from dataclasses import fields
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from moka.omni.backbones import load_audio_tower, load_language_model, load_vision_tower
from moka.omni.configuration import MokaOmniConfig, MokaProjectorConfig
from moka.omni.modeling import MokaOmniForConditionalGeneration
from moka.omni.processing import MokaOmniProcessor
from moka.omni.projector import MokaProjector

Projector = dict[str, Any] | MokaProjectorConfig | None


def assemble(
    language_model: str,
    vision_tower: str | None = None,
    audio_tower: str | None = None,
    *,
    vision_projector: Projector = None,
    audio_projector: Projector = None,
    vision_feature_layer: int = -2,
    dtype: torch.dtype | None = None,
) -> tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]:
    """Put pretrained parts together; new are the projectors, which alone are trainable, and the placeholder tokens.

    Args:
        language_model: Causal LM of the LLaMA, Mistral, Qwen2 or Qwen3 family, with its tokenizer. This and the others
            are hub ids, folders or names of the generated world ("moka-tiny/llama").
        vision_tower: CLIP vision encoder with its image processor; None: the model cannot see.
        audio_tower: AST with its feature extractor; None: the model cannot hear.
        vision_projector: Fields of `MokaProjectorConfig`; its defaults when None. Drawn from torch's random numbers.
        audio_projector: The same, for audio.
        vision_feature_layer: Which hidden state of the vision tower is projected.
        dtype: Of all weights; the language model's own when None.

    Returns:
        The model, in eval mode on the CPU, and its processor.

    Raises:
        ValueError: A part cannot be used, or an unknown field of a projector.
    """
    lm, tokenizer, ids = load_language_model(language_model, dtype)
    vision = audio = image_processor = feature_extractor = None
    if vision_tower is not None:
        vision, image_processor = load_vision_tower(vision_tower, lm.dtype)
    if audio_tower is not None:
        audio, feature_extractor = load_audio_tower(audio_tower, lm.dtype)
    config = MokaOmniConfig(
        text_config=lm.config,
        vision_config=None if vision is None else vision.config,
        audio_config=None if audio is None else audio.config,
        vision_projector=_projector_config("vision_projector", vision_projector),
        audio_projector=_projector_config("audio_projector", audio_projector),
        vision_feature_layer=vision_feature_layer,
        image_token_id=ids[0],
        video_token_id=ids[1],
        audio_token_id=ids[2],
        backbones={"language_model": language_model, "vision_tower": vision_tower, "audio_tower": audio_tower},
        dtype=lm.dtype,
    )
    # The names as given: what "moka-tiny/..." stands for is a path of this machine.
    parts = ((lm, language_model), (vision, vision_tower), (audio, audio_tower))
    for part, name in parts:
        if part is not None and name is not None:
            part.name_or_path = part.config.name_or_path = name
    model = _compose(config, lm, vision, audio)
    model.generation_config = _generation_config(lm, tokenizer, ids)
    # What PEFT writes into adapter_config.json and the model card as the base model.
    model.name_or_path = config.name_or_path = language_model
    model.freeze_backbones()
    processor = MokaOmniProcessor(
        image_processor, feature_extractor, tokenizer, config.visual_tokens, config.audio_tokens
    )
    return model.eval(), processor


def _projector_config(name: str, given: Projector) -> MokaProjectorConfig | None:
    if given is None or isinstance(given, PreTrainedConfig):
        return given
    known = {field.name for field in fields(MokaProjectorConfig)} - {field.name for field in fields(PreTrainedConfig)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{name}: unknown field {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return MokaProjectorConfig(**given)


def _compose(
    config: MokaOmniConfig, lm: PreTrainedModel, vision: PreTrainedModel | None, audio: PreTrainedModel | None
) -> MokaOmniForConditionalGeneration:
    # On the meta device the parts that are replaced take no memory.
    with torch.device("meta"):
        model = MokaOmniForConditionalGeneration(config)
    trunk = model.model
    trunk.language_model, model.lm_head = lm.get_decoder(), lm.get_output_embeddings()
    width = config.text_config.hidden_size
    if vision is not None:
        trunk.vision_tower = vision
        trunk.vision_projector = _new_projector(model, config.vision_projector, vision.config.hidden_size, width)
    if audio is not None:
        trunk.audio_tower = audio
        trunk.audio_projector = _new_projector(model, config.audio_projector, audio.config.hidden_size, width)
    model.tie_weights()
    return model


def _new_projector(
    model: MokaOmniForConditionalGeneration, config: MokaProjectorConfig, encoder_width: int, language_width: int
) -> MokaProjector:
    projector = MokaProjector(config, encoder_width, language_width)
    # The same start as in a model made from its config; the Q-Former has drawn its own weights.
    for module in (projector.norm, projector.resampler, *projector.mlp):
        model._init_weights(module)
    return projector.to(model.lm_head.weight.dtype)


def _generation_config(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> GenerationConfig:
    """The language model's own, completed by its tokenizer, never to write a placeholder."""
    config = copy.deepcopy(lm.generation_config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            setattr(config, name, getattr(tokenizer, name))
    config.suppress_tokens = sorted({*(config.suppress_tokens or ()), *ids})
    return config
