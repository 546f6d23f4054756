"""The encoders that can be towers: how each is loaded, and which of its tokens are features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ASTFeatureExtractor,
    ASTModel,
    AutoImageProcessor,
    AutoModel,
    CLIPVisionModel,
    PreTrainedModel,
    SiglipVisionModel,
    WhisperFeatureExtractor,
    WhisperModel,
)

from moka.omni.beats import BeatsModel
from moka.omni.fbank import BeatsFeatureExtractor

Loaded = tuple[PreTrainedModel, Any]
# Kaldi's filter bank, which AST and BEATs were trained on: 25 ms every 10 ms.
FRAME_SECONDS, HOP_SECONDS = 0.025, 0.010


@dataclass(frozen=True)
class Tower:
    """One family of encoders.

    Args:
        load: Folder or hub id, dtype -> the encoder and what prepares its input.
        tokens: Config -> tokens of one image or window, without the prefix.
        prefix: Tokens before them, such as a class token, that are no features.
        takes: Config -> frames and mel bins of a window (audio only).
        new: Config -> the encoder with random weights.
    """

    load: Callable[[str, torch.dtype], Loaded]
    tokens: Callable[[Any], int]
    prefix: int = 0
    takes: Callable[[Any], tuple[int, int]] = lambda config: (config.max_length, config.num_mel_bins)
    new: Callable[[Any], PreTrainedModel] = AutoModel.from_config


def _load_vision(model_class: type[PreTrainedModel], **options: Any) -> Callable[[str, torch.dtype], Loaded]:
    def load(path: str, dtype: torch.dtype) -> Loaded:
        tower = model_class.from_pretrained(path, dtype=dtype, use_safetensors=True)
        side = {"height": tower.config.image_size, "width": tower.config.image_size}
        return tower, AutoImageProcessor.from_pretrained(path, backend="pil", size=side, **options)

    return load


def _load_ast(path: str, dtype: torch.dtype) -> Loaded:
    tower = ASTModel.from_pretrained(path, dtype=dtype, use_safetensors=True)
    return tower, ASTFeatureExtractor.from_pretrained(path)


def _load_beats(path: str, dtype: torch.dtype) -> Loaded:
    if Path(path).is_file():
        tower = BeatsModel.from_official(path)
        return tower.to(dtype=dtype), BeatsFeatureExtractor(max_length=tower.config.max_length)  # type: ignore[call-arg]
    tower = BeatsModel.from_pretrained(path, dtype=dtype, use_safetensors=True)
    return tower, BeatsFeatureExtractor.from_pretrained(path)


def _load_whisper(path: str, dtype: torch.dtype) -> Loaded:
    whole = WhisperModel.from_pretrained(path, dtype=dtype, use_safetensors=True)
    return whole.get_encoder(), WhisperFeatureExtractor.from_pretrained(path)


def _new_whisper(config: Any) -> PreTrainedModel:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder  # no Auto class makes the encoder alone

    return WhisperEncoder(config)


def _square_patches(config: Any) -> int:
    return (config.image_size // config.patch_size) ** 2


def _ast_patches(config: Any) -> int:
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    return bands * ((config.max_length - config.patch_size) // config.time_stride + 1)


def _beats_patches(config: Any) -> int:
    return (config.max_length // config.input_patch_size) * (config.num_mel_bins // config.input_patch_size)


# CLIP's own centre crop would cut off what stands at the left and right of a wide video.
CLIP = Tower(_load_vision(CLIPVisionModel, do_center_crop=False), _square_patches, prefix=1)
SIGLIP = Tower(_load_vision(SiglipVisionModel), _square_patches)
VISION_TOWERS = {"clip": CLIP, "clip_vision_model": CLIP, "siglip": SIGLIP, "siglip_vision_model": SIGLIP}
AUDIO_TOWERS = {
    "audio-spectrogram-transformer": Tower(_load_ast, _ast_patches, prefix=2),  # class and distillation token
    "beats": Tower(_load_beats, _beats_patches),
    "whisper": Tower(
        _load_whisper,
        lambda config: config.max_source_positions,
        takes=lambda config: (2 * config.max_source_positions, config.num_mel_bins),
        new=_new_whisper,
    ),
}


def made_shape(extractor: Any) -> tuple[int, int]:
    """Frames and mel bins of a window that a feature extractor makes."""
    if isinstance(extractor, WhisperFeatureExtractor):
        return extractor.nb_max_frames, extractor.feature_size
    return extractor.max_length, extractor.num_mel_bins


def longest_window(extractor: Any) -> int:
    """Samples of the longest window that a feature extractor takes without cutting it."""
    if isinstance(extractor, WhisperFeatureExtractor):
        return extractor.n_samples
    # Kaldi's frames: a last one that is not whole is left out.
    frame, hop = (round(seconds * extractor.sampling_rate) for seconds in (FRAME_SECONDS, HOP_SECONDS))
    return frame + hop * extractor.max_length - 1
