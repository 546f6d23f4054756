"""A scene as pixels, as sound, and as an mp4 file."""

from pathlib import Path

import av
import numpy as np

from .instruments import BY_NAME, Instrument
from .scenes import CLIP_SECONDS, Scene, Sound

FRAME_SIZE = 48
FRAMES_PER_SECOND = 5
SAMPLE_RATE = 16_000
SLOT = FRAME_SIZE // 3
BACKGROUNDS = {"indoor": (120, 95, 75), "outdoor": (95, 130, 95)}
LOUD, QUIET, BACKGROUND_NOISE = 0.22, 0.06, 0.003


def draw_shape(shape: str, size: int) -> np.ndarray:
    """A boolean mask (size, size) of one shape."""
    axis = np.linspace(-1, 1, size)
    x, y = np.meshgrid(axis, axis)
    radius = np.hypot(x, y)
    masks = {
        "disc": radius <= 0.95,
        "ring": (radius <= 1.0) & (radius >= 0.55),
        "square": np.maximum(np.abs(x), np.abs(y)) <= 0.85,
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": np.minimum(np.abs(x), np.abs(y)) <= 0.3,
        "bar": np.abs(y) <= 0.4,
    }
    return masks[shape]


def draw_frame(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """One frame (48, 48, 3) uint8; size, place in the slot, brightness and grain vary, sounding or not never shows."""
    frame = np.empty((FRAME_SIZE, FRAME_SIZE, 3))
    frame[:] = BACKGROUNDS[scene.place]
    for slot, name in enumerate(scene.seen):
        if name is None:
            continue
        instrument = BY_NAME[name]
        size = int(rng.integers(11, 15))
        left = slot * SLOT + int(rng.integers(0, SLOT - size + 1))
        top = int(rng.integers(12, FRAME_SIZE - 12 - size))
        patch = frame[top : top + size, left : left + size]
        patch[draw_shape(instrument.shape, size)] = instrument.colour
    frame *= rng.uniform(0.8, 1.15)
    frame += rng.normal(0, 6, frame.shape)
    return frame.clip(0, 255).astype(np.uint8)


def draw_frames(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """All frames of a clip, (frames, 48, 48, 3) uint8; the picture changes once a second."""
    stills = np.stack([draw_frame(scene, rng) for _ in range(CLIP_SECONDS)])
    return stills.repeat(FRAMES_PER_SECOND, axis=0)


def play(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The clip's sound, (samples,) float32 at 16 kHz, mono."""
    mix = rng.normal(0, BACKGROUND_NOISE, CLIP_SECONDS * SAMPLE_RATE)
    for sound in scene.sounds:
        mix[sound.start * SAMPLE_RATE : sound.end * SAMPLE_RATE] += _play_one(sound, rng)
    return mix.clip(-1, 1).astype(np.float32)


def _play_one(sound: Sound, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(sound.length * SAMPLE_RATE) / SAMPLE_RATE
    tone = _timbre(BY_NAME[sound.name], time, rng)
    level = (LOUD if sound.loud else QUIET) * rng.uniform(0.85, 1.15)
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
    return level * tone * fade


def _timbre(instrument: Instrument, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pitch = instrument.pitch * rng.uniform(0.97, 1.03)
    tone = np.zeros_like(time)
    for order, weight in enumerate(instrument.harmonics, start=1):
        tone += weight * np.sin(2 * np.pi * (pitch * order * time + rng.random()))
    tone /= np.sqrt(np.square(instrument.harmonics).sum() / 2)
    return (1 - instrument.breath) * tone + instrument.breath * rng.normal(0, 1, time.shape)


def write_clip(file: Path, scene: Scene, rng: np.random.Generator) -> None:
    """Write the scene as an mp4 file (MPEG-4 video, AAC mono audio).

    Args:
        file: where to.
        scene: what to show and play.
        rng: draws grain, jitter and detuning.
    """
    with av.open(str(file), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND, options={"qscale": "3", "flags": "+qscale"})
        video.width = video.height = FRAME_SIZE
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"b": "64000"})
        for picture in draw_frames(scene, rng):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        block = av.AudioFrame.from_ndarray(play(scene, rng)[None], format="fltp", layout="mono")
        block.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(block))
        container.mux(audio.encode())
