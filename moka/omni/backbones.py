"""Loading the three pretrained parts and making room for the placeholder tokens."""

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from moka.data.locate import locate
from moka.omni.processing import PLACEHOLDERS, placeholder_ids
from moka.omni.towers import AUDIO_TOWERS, VISION_TOWERS, made_shape

# Families whose logits are lm_head(hidden) and nothing more, with the trunk's embeddings at embed_tokens. Others scale
# embeddings or logits, and would load but compute something else.
LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3")
GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load_language_model(
    name: str, dtype: torch.dtype | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[int]]:
    """Load a causal LM and its tokenizer, with placeholder tokens and embeddings for them.

    Args:
        name: Hub id or folder.
        dtype: Of the weights; the checkpoint's own when None.

    Returns:
        The model, its tokenizer and the ids of image, video and audio placeholder.

    Raises:
        ValueError: A family that cannot be used, or a tokenizer without an end token.
    """
    path = locate(name)
    _family(name, path, LANGUAGE_MODELS, "language model")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or "auto", use_safetensors=True)
    if model.get_output_embeddings().bias is not None:
        raise ValueError(f"{name}: its output layer has a bias, which is not supported")
    tokenizer = _load_tokenizer(path)
    if tokenizer.eos_token is None:
        raise ValueError(f"{name}: its tokenizer has no eos_token, so answers would never end; set one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # add_special_tokens would replace the tokenizer's own additional ones.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in PLACEHOLDERS])
    ids = placeholder_ids(tokenizer)
    _grow_embeddings(model, max(*ids, len(tokenizer) - 1) + 1)
    return model, tokenizer, ids


def load_vision_tower(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """Load a vision encoder (or the one inside a CLIP or SigLIP checkpoint) and its image processor.

    The processor squeezes whole frames into the encoder's square, as the paper's experiments do.

    Raises:
        ValueError: Another kind of checkpoint.
    """
    path = locate(name)
    return VISION_TOWERS[_family(name, path, VISION_TOWERS, "vision tower")].load(path, dtype)


def load_audio_tower(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """Load an audio encoder (or the one inside an AST classifier or a Whisper model) and its feature extractor.

    Args:
        name: Hub id, folder, or an official BEATs checkpoint (.pt), which then takes windows of two seconds.
        dtype: Of the weights.

    Raises:
        ValueError: Another kind of checkpoint, or the feature extractor makes another shape than the encoder takes.
    """
    path = locate(name)
    family = "beats" if path.endswith(".pt") else _family(name, path, AUDIO_TOWERS, "audio tower")
    tower, extractor = AUDIO_TOWERS[family].load(path, dtype)
    made, taken = made_shape(extractor), AUDIO_TOWERS[family].takes(tower.config)
    if made != taken:
        raise ValueError(f"{name}: its feature extractor makes (frames, mel bins) {made}, its encoder takes {taken}")
    return tower, extractor


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    # For some families (qwen2) AutoTokenizer puts the family's own class in place of a generic one, and with it
    # another splitting of words than tokenizer.json says.
    declared = get_tokenizer_config(path).get("tokenizer_class")
    loader = PreTrainedTokenizerFast if declared in GENERIC_TOKENIZERS else AutoTokenizer
    return loader.from_pretrained(path)


def _family(name: str, path: str, allowed: Collection[str], role: str) -> str:
    family = AutoConfig.from_pretrained(path).model_type
    if family not in allowed:
        raise ValueError(f"{name} is of type {family!r}, which cannot be the {role}; use one of {', '.join(allowed)}")
    return family


@torch.no_grad()
def _grow_embeddings(model: PreTrainedModel, needed: int) -> None:
    """Make room for `needed` tokens; a new row is the mean of the old ones, so every load gives the same."""
    before = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if needed <= before:
        return
    # Resizing draws random rows; the caller's stream of random numbers must not depend on it.
    with torch.random.fork_rng():
        model.resize_token_embeddings(needed, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = cast(nn.Parameter, layer.weight)
        weight[before:] = weight[:before].float().mean(0).to(weight.dtype)
