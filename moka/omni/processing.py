"""Texts, frames and sound -> what the model takes."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import (
    ASTFeatureExtractor,
    BatchFeature,
    CLIPImageProcessorPil,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from moka.omni.towers import FRAME_SECONDS, longest_window

IMAGE_TOKEN, VIDEO_TOKEN, AUDIO_TOKEN = PLACEHOLDERS = ("<|image|>", "<|video|>", "<|audio|>")

Count = int | Sequence[int]


class MokaOmniProcessor(ProcessorMixin):
    """Image processor, feature extractor and tokenizer of one model, and its placeholder tokens.

    transformers cannot save a processor without one of its parts, so a model that cannot see (or hear) has a part that
    is never used; that the model lacks the tower is told by `visual_tokens` (or `audio_tokens`) being None.

    Args:
        image_processor: Of the vision tower; CLIP's defaults when None.
        feature_extractor: Of the audio tower; AST's defaults when None.
        tokenizer: Of the language model, with the three placeholder tokens; it is set to pad on the left.
        visual_tokens: Language model tokens per image or frame; None without a vision tower.
        audio_tokens: Language model tokens per audio window; None without an audio tower.
        chat_template: Of the tokenizer when None.

    Raises:
        ValueError: The tokenizer does not know a placeholder token.
    """

    return_mm_token_type_ids: ClassVar[bool] = True  # type: ignore[misc]
    image_token = IMAGE_TOKEN
    video_token = VIDEO_TOKEN
    audio_token = AUDIO_TOKEN

    def __init__(
        self,
        image_processor: Any = None,
        feature_extractor: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        visual_tokens: int | None = None,
        audio_tokens: int | None = None,
        chat_template: str | dict[str, str] | None = None,
    ) -> None:
        if tokenizer is None:
            raise ValueError("MokaOmniProcessor needs a tokenizer")
        image_processor = CLIPImageProcessorPil() if image_processor is None else image_processor
        feature_extractor = ASTFeatureExtractor() if feature_extractor is None else feature_extractor
        tokenizer.padding_side = "left"
        template = tokenizer.chat_template if chat_template is None else chat_template
        super().__init__(image_processor, feature_extractor, tokenizer, chat_template=template)
        self.visual_tokens = visual_tokens
        self.audio_tokens = audio_tokens
        self.image_token_id, self.video_token_id, self.audio_token_id = placeholder_ids(tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        """The names of what `__call__` can return."""
        texts = ["input_ids", "attention_mask", "mm_token_type_ids"]
        return [*texts, "pixel_values", "pixel_values_videos", "input_features"]

    def process_images(self, frames: Any) -> Tensor:
        """Resize, crop and normalise.

        Args:
            frames: (N, H, W, 3) uint8, or a list of images: arrays (H, W, 3) of any sizes or PIL images.

        Returns:
            (N, 3, h, w) float32.

        Raises:
            ValueError: No frame, a wrong shape or dtype, or the model has no vision tower.
        """
        if self.visual_tokens is None:
            raise ValueError("this model has no vision tower, so it takes no images or video")
        arrays = [np.asarray(frame) for frame in frames]
        if not arrays:
            raise ValueError("no frames to process")
        for index, array in enumerate(arrays):
            if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
                raise ValueError(
                    f"frame {index} is {array.dtype} of shape {array.shape}; expected uint8 of shape (H, W, 3)"
                )
        return self.image_processor(arrays, return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    def process_audio(self, windows: Any) -> Tensor:
        """Compute log-mel filter banks of windows, zero-padded to the length the audio tower takes.

        Args:
            windows: (W, samples) float32 in [-1, 1] at the feature extractor's rate (16 kHz), or a list of 1-D arrays.

        Returns:
            (W, frames, mel bins) float32; (W, mel bins, frames) for Whisper.

        Raises:
            ValueError: No window, a wrong shape, a window too short for one frame or longer than the tower takes, or
                the model has no audio tower.
        """
        if self.audio_tokens is None:
            raise ValueError("this model has no audio tower, so it takes no sound")
        rate, longest = self.feature_extractor.sampling_rate, longest_window(self.feature_extractor)
        shortest = round(FRAME_SECONDS * rate)
        arrays = [np.asarray(window, dtype=np.float32) for window in windows]
        if not arrays:
            raise ValueError("no audio windows to process")
        for index, array in enumerate(arrays):
            if array.ndim != 1:
                raise ValueError(f"audio window {index} has shape {array.shape}; expected one channel: (samples,)")
            if not shortest <= len(array) <= longest:
                raise ValueError(
                    f"audio window {index} has {len(array)} samples ({len(array) / rate:.3f} s): the audio tower "
                    f"takes from {FRAME_SECONDS} to {longest / rate:.3f} s"
                )
        made = self.feature_extractor(arrays, sampling_rate=rate, return_tensors="np")
        values = made[self.feature_extractor.model_input_names[0]]
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def expand(self, text: str, num_images: Count = 0, num_frames: Count = 0, num_windows: Count = 0) -> str:
        """Repeat each placeholder as often as its medium has tokens.

        Args:
            text: With one placeholder per medium.
            num_images: Images of each image placeholder; a number is for the text's only one, 0 if it has none.
            num_frames: Frames of each video placeholder.
            num_windows: Windows of each audio placeholder.

        Raises:
            ValueError: The text has more or fewer placeholders than there are counts, or a tower is missing.
        """
        text = self._expand(text, self.image_token, num_images, self.visual_tokens)
        text = self._expand(text, self.video_token, num_frames, self.visual_tokens)
        return self._expand(text, self.audio_token, num_windows, self.audio_tokens)

    def _expand(self, text: str, token: str, counts: Count, tokens: int | None) -> str:
        counts = ([counts] if counts else []) if isinstance(counts, int) else list(counts)
        parts = text.split(token)
        if len(parts) - 1 != len(counts):
            raise ValueError(
                f"the text has {len(parts) - 1} {token} placeholders for {len(counts)} media: {text[:200]!r}; give "
                "one placeholder a medium"
            )
        if not counts:
            return text
        if tokens is None:
            raise ValueError(f"this model has no tower for {token}; leave it and its medium out")
        repeated = [token * (tokens * count) for count in counts]
        return parts[0] + "".join(chain.from_iterable(zip(repeated, parts[1:], strict=True)))

    def __call__(
        self,
        images: Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        videos: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        *,
        padding: bool | str = True,
        add_special_tokens: bool = True,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepare texts and their media; the n-th placeholder of the batch stands for the n-th medium.

        Args:
            images: (H, W, 3) uint8 arrays or PIL images, in the order of their placeholders.
            text: One text or a list, with one placeholder per medium.
            videos: Frames (T, H, W, 3) uint8 of each video.
            audio: Windows (W, samples) float32 at 16 kHz of each sound.
            padding: As the tokenizer's; on the left.
            add_special_tokens: Whether the tokenizer adds its own; not to a text made by a chat template.
            return_tensors: "pt" or None; without, texts are lists. Media are always tensors.

        Returns:
            `input_ids`, `attention_mask` and `mm_token_type_ids` (0 text, 1 image, 2 video, 3 audio) of shape (B, L);
            `pixel_values` (N, 3, h, w), `pixel_values_videos` (frames, 3, h, w) and `input_features` (windows, frames,
            mel bins) of the whole batch, if there are any.

        Raises:
            ValueError: No text, texts and media do not match, or a medium cannot be processed.
        """
        if text is None:
            raise ValueError("MokaOmniProcessor needs a text; process_images and process_audio take media alone")
        texts = [text] if isinstance(text, str) else list(text)
        media: dict[str, Tensor] = {}
        if images:
            media["pixel_values"] = self.process_images(images)
        clips = [self.process_images(video) for video in videos or ()]
        sounds = [self.process_audio(windows) for windows in audio or ()]
        if clips:
            media["pixel_values_videos"] = torch.cat(clips)
        if sounds:
            media["input_features"] = torch.cat(sounds)
        sizes = {
            self.image_token: [1] * len(images or ()),
            self.video_token: [len(clip) for clip in clips],
            self.audio_token: [len(sound) for sound in sounds],
        }
        expanded = [self.expand(one, *counts) for one, counts in zip(texts, _share(texts, sizes), strict=True)]
        encoding = self.tokenizer(
            expanded, padding=padding, add_special_tokens=add_special_tokens, return_token_type_ids=False
        )
        encoding["mm_token_type_ids"] = self.create_mm_token_type_ids(encoding["input_ids"])
        batch = BatchFeature(dict(encoding), tensor_type=return_tensors)
        batch.update(media)
        return batch


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of image, video and audio placeholder.

    Raises:
        ValueError: The tokenizer does not know one.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in PLACEHOLDERS if token not in vocabulary]
    if missing:
        raise ValueError(f"the tokenizer has no {', '.join(missing)}; add them (moka.omni.assemble does)")
    return [vocabulary[token] for token in PLACEHOLDERS]


def _share(texts: Sequence[str], sizes: dict[str, list[int]]) -> list[list[list[int]]]:
    """Hand out the batch's media to the texts, by their placeholders."""
    shared: list[list[list[int]]] = [[] for _ in texts]
    for token, counts in sizes.items():
        needed = [text.count(token) for text in texts]
        if sum(needed) != len(counts):
            raise ValueError(
                f"the texts have {sum(needed)} {token} placeholders ({needed} by text) but {len(counts)} media were "
                "passed for them"
            )
        rest = iter(counts)
        for row, count in enumerate(needed):
            shared[row].append([next(rest) for _ in range(count)])
    return shared
