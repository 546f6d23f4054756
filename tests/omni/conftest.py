"""Tiny backbones saved as real folders, and batches with media."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ASTModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from moka.omni import MokaOmniForConditionalGeneration, MokaOmniProcessor, assemble

TEXT = "what is in the clip and sound heard yes no one two three piano drum see hear ? . :"
WORDS = TEXT.split()
SPECIAL = ["<unk>", "<s>", "</s>", "<|tool|>"]
SIZES = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.2,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {}),
    # Tied, and with rows beyond the tokenizer's, as the small Qwen2 models.
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True, "vocab_size": 64}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"tie_word_embeddings": True}),
}
SIDE, PATCH, MELS, MEL_FRAMES = 16, 8, 16, 48
ENCODER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
VISION = {**ENCODER, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 8, "initializer_range": 0.3}
QFORMER = {"num_queries": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|tool|>"],
    )


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with llama, mistral, qwen2, qwen3, clip, clip_full, ast and ast_classifier."""
    root = tmp_path_factory.mktemp("backbones")
    for name, (config_class, model_class, options) in FAMILIES.items():
        torch.manual_seed(1)
        model = model_class(config_class(**{**SIZES, **options}))
        model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 3], do_sample=False)
        model.save_pretrained(root / name)
        make_tokenizer().save_pretrained(root / name)
    torch.manual_seed(2)
    clip_text = {**ENCODER, "vocab_size": 20, "projection_dim": 8, "eos_token_id": 2}
    full = CLIPModel(CLIPConfig(text_config=clip_text, vision_config=VISION, projection_dim=8))
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION))
    tower.load_state_dict(full.vision_model.state_dict())
    side = {"height": SIDE, "width": SIDE}
    for name, vision in (("clip_full", full), ("clip", tower)):
        vision.save_pretrained(root / name)
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(root / name)
    ast_config = ASTConfig(**ENCODER, max_length=MEL_FRAMES, num_mel_bins=MELS, patch_size=8, initializer_range=0.3)
    classifier = ASTForAudioClassification(ast_config)
    encoder = ASTModel(ast_config)
    encoder.load_state_dict(classifier.audio_spectrogram_transformer.state_dict())
    for name, audio in (("ast_classifier", classifier), ("ast", encoder)):
        audio.save_pretrained(root / name)
        ASTFeatureExtractor(num_mel_bins=MELS, max_length=MEL_FRAMES).save_pretrained(root / name)
    return root


Build = Callable[..., tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]]


@pytest.fixture(scope="session")
def build(backbones: Path) -> Build:
    """Assemble from the tiny folders; the projectors are blown up, so that media matter to the output."""

    def make(family: str = "llama", **options: Any) -> tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]:
        torch.manual_seed(3)
        parts = {"vision_tower": "clip", "audio_tower": "ast"}
        parts = {key: options.pop(key, name) for key, name in parts.items()}
        paths = {key: None if name is None else str(backbones / name) for key, name in parts.items()}
        projectors = {
            key: QFORMER
            for key, tower in zip(("vision_projector", "audio_projector"), paths.values(), strict=True)
            if tower
        }
        model, processor = assemble(str(backbones / family), **paths, **{**projectors, **options})
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "_projector.mlp" in name or "resampler" in name:
                    parameter.mul_(10)
        return model, processor

    return make


@pytest.fixture(scope="session")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def frames(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def sound(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (count, 4000)).astype(np.float32)


SAMPLES: list[dict[str, Any]] = [
    {
        "text": "see <|video|> hear <|audio|> what is heard ?",
        "videos": [frames(1, 2)],
        "audio": [sound(2, 3)],
    },
    {"text": "<|image|> what is in the clip ?", "images": [frames(3)[0]]},
    {"text": "is one two ?"},
]


def mixed_batch(processor: MokaOmniProcessor, samples: list[dict[str, Any]] | None = None) -> Any:
    """One sample with video and sound, one with an image, one of text only."""
    samples = SAMPLES if samples is None else samples
    media: dict[str, list[Any]] = {}
    for sample in samples:
        for key in ("images", "videos", "audio"):
            media.setdefault(key, []).extend(sample.get(key, []))
    return processor(text=[sample["text"] for sample in samples], **media)
