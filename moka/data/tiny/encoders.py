"""The tiny vision and audio towers, trained on labelled frames and windows of separate clips."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from tqdm import tqdm
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from ..decoding import load_audio, load_video
from ..media import SAMPLE_RATE, Windowing, cut_windows
from .instruments import NAMES, PLACES, POSITIONS
from .render import FRAME_SIZE, write_clip
from .scenes import BAR_SECONDS, BARS, CLIP_SECONDS, Scene, random_scene, scene_stream
from .schedule import warmup_cosine
from .settings import WorldSettings

PATCH = 8
MEL_BINS = 64
WINDOW_FRAMES = 98  # of 25 ms every 10 ms: one second
WINDOWING = Windowing(num_frames=10, num_windows=BARS, window_seconds=1.0, window_offset=0.5)
# CLIP's penultimate layer feeds the projector, so it is the one that must tell the instruments apart.
VISION_LAYER = -2


def build_vision_tower(settings: WorldSettings, folder: Path) -> None:
    """Train a CLIPVisionModel to name what stands where, and save it with its image processor."""
    processor = _image_processor()
    frames, labels = _frames(settings, processor)
    torch.manual_seed(settings.seed)
    width = settings.encoder_width
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=settings.encoder_layers,
            num_attention_heads=max(1, width // 16),
            image_size=FRAME_SIZE,
            patch_size=PATCH,
            projection_dim=width,
        )
    )
    head = nn.ModuleDict(
        {
            "whole": nn.Linear(width, len(POSITIONS) * (len(NAMES) + 1) + 1),
            "part": nn.Linear(width, len(NAMES) + 1),
        }
    )

    def features(pixels: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=pixels, output_hidden_states=True).hidden_states[VISION_LAYER][:, 1:]

    def loss(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        patches = features(pixels)
        logits = head["whole"](patches.mean(1))
        slots = logits[:, :-1].unflatten(1, (len(POSITIONS), -1)).flatten(0, 1)
        # Naming each third by itself is learned first and helps to tell what is where in the whole.
        side = FRAME_SIZE // PATCH
        thirds = patches.unflatten(1, (side, len(POSITIONS), -1)).mean((1, 3)).flatten(0, 1)
        names = target[:, :-1].flatten()
        placed = binary_cross_entropy_with_logits(logits[:, -1], target[:, -1].float())
        return cross_entropy(slots, names) + cross_entropy(head["part"](thirds), names) + placed

    _train(model, head, loss, frames, labels, settings.vision_steps, settings, "vision tower")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def build_audio_tower(settings: WorldSettings, folder: Path) -> None:
    """Train an ASTModel to name what sounds and how, and save it with its feature extractor."""
    extractor = ASTFeatureExtractor(
        num_mel_bins=MEL_BINS, max_length=WINDOW_FRAMES, sampling_rate=SAMPLE_RATE, mean=-9.0, std=3.0
    )
    windows, labels = _windows(settings, extractor)
    torch.manual_seed(settings.seed)
    width = settings.encoder_width
    model = ASTModel(
        ASTConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=settings.encoder_layers,
            num_attention_heads=max(1, width // 16),
            patch_size=16,
            frequency_stride=16,
            time_stride=16,
            max_length=WINDOW_FRAMES,
            num_mel_bins=MEL_BINS,
        )
    )
    head = nn.Linear(width, 2 * len(NAMES))

    def features(values: torch.Tensor) -> torch.Tensor:
        return model(input_values=values).last_hidden_state[:, 2:].mean(1)

    def loss(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        each = binary_cross_entropy_with_logits(head(features(values)), target, reduction="none")
        # How loud an instrument plays is asked only of those that sound.
        asked = torch.cat([torch.ones_like(target[:, : len(NAMES)]), target[:, : len(NAMES)]], dim=1)
        return (each * asked).sum() / asked.sum()

    _train(model, head, loss, windows, labels, settings.audio_steps, settings, "audio tower")
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


def _image_processor() -> CLIPImageProcessorPil:
    side = {"height": FRAME_SIZE, "width": FRAME_SIZE}
    return CLIPImageProcessorPil(size=side, do_center_crop=False)


def _clips(settings: WorldSettings, stream: str, description: str) -> Iterator[tuple[Scene, Path]]:
    """Scenes of a stream with their clips, really written and decoded, so that the towers see what a codec does."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        for index in tqdm(range(settings.encoder_scenes), desc=description, mininterval=1.0):
            rng = scene_stream(settings.seed, stream, index)
            scene = random_scene(rng)
            write_clip(file, scene, rng)
            yield scene, file


def _frames(settings: WorldSettings, processor: CLIPImageProcessorPil) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = [], []
    for scene, file in _clips(settings, "vision", "frames for the vision tower"):
        frames = load_video(file, CLIP_SECONDS)
        pixels.append(processor(list(frames), return_tensors="pt")["pixel_values"])
        labels += [_frame_label(scene)] * len(frames)
    return torch.cat(pixels), torch.tensor(labels)


def _frame_label(scene: Scene) -> list[int]:
    return [NAMES.index(name) if name else len(NAMES) for name in scene.seen] + [PLACES.index(scene.place)]


def _windows(settings: WorldSettings, extractor: ASTFeatureExtractor) -> tuple[torch.Tensor, torch.Tensor]:
    values, labels = [], []
    for scene, file in _clips(settings, "audio", "windows for the audio tower"):
        windows = cut_windows(load_audio(file), WINDOWING)
        values.append(extractor(list(windows), sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_values"])
        labels += [_window_label(scene, second) for second in range(0, CLIP_SECONDS, BAR_SECONDS)]
    return torch.cat(values), torch.tensor(np.array(labels), dtype=torch.float32)


def _window_label(scene: Scene, second: int) -> list[bool]:
    heard = {name: sound for name, sound in scene.heard.items() if sound.start <= second < sound.end}
    return [name in heard for name in NAMES] + [name in heard and heard[name].loud for name in NAMES]


def _train(
    model: nn.Module,
    head: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
    settings: WorldSettings,
    description: str,
) -> None:
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=settings.encoder_rate)
    schedule = warmup_cosine(optimizer, steps)
    generator = torch.Generator().manual_seed(settings.seed)
    model.train()
    progress = tqdm(range(steps), desc=description, mininterval=1.0)
    for step in progress:
        rows = torch.randint(len(inputs), (settings.encoder_batch,), generator=generator)
        value = loss(inputs[rows], labels[rows])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{value.item():.3f}")
    model.eval()
