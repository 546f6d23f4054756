"""Real media files, written for the tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> NDArray[np.float32]:
    """A sine of amplitude 0.3: (samples,)."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def grey_of(index: int) -> int:
    """The grey of a clip's frame: far enough apart to survive the codec."""
    return (index * 24) % 240


def write_sound(path: Path, waveform: NDArray[np.float32], rate: int = 16_000) -> Path:
    """Write (samples,) or (channels, samples) in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform.T, rate)
    return path


def write_clip(
    path: Path,
    seconds: float = 2.0,
    *,
    fps: int = 5,
    codec: str = "libx264",
    size: tuple[int, int] = (48, 32),
    sound: NDArray[np.float32] | None = None,
    rate: int = 16_000,
    sound_start: float = 0.0,
    sound_codec: str = "aac",
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip whose frame i is the flat grey `grey_of(i)` left of the middle and black right of it.

    Args:
        size: Width and height.
        sound: (samples,) or (channels, samples); None for a clip without sound.
        sound_start: Seconds of the clip before the sound track begins.
        rotation: What a player is told to turn the picture by, in degrees anti-clockwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as out:
        video = out.add_stream(codec, rate=fps)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        waves = None if sound is None else np.atleast_2d(sound)
        layout = "mono" if waves is None or len(waves) == 1 else "stereo"
        audio = None if waves is None else out.add_stream(sound_codec, rate=rate, layout=layout)
        for i in range(max(1, round(seconds * fps))):
            picture = np.zeros((size[1], size[0], 3), np.uint8)
            picture[:, : size[0] // 2] = grey_of(i)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if audio is not None and waves is not None:
            for start in range(0, waves.shape[1], 1024):
                block = np.ascontiguousarray(waves[:, start : start + 1024])
                samples = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                samples.sample_rate, samples.time_base = rate, Fraction(1, rate)
                samples.pts = start + round(sound_start * rate)
                out.mux(audio.encode(samples))
            out.mux(audio.encode())
    return path


def write_bare_mp3(path: Path, seconds: float, bit_rate: int) -> Path:
    """An MP3 without the tag that states its length."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"write_xing": "0", "id3v2_version": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=16_000, layout="mono")
        stream.bit_rate = bit_rate
        for start in range(0, round(seconds * 16_000), 1152):
            noise = (0.1 * rng.normal(size=(1, 1152))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """A copy of a file that stops after `share` of its bytes."""
    copy = path.with_name(f"cut-{path.name}")
    content = path.read_bytes()
    copy.write_bytes(content[: int(len(content) * share)])
    return copy
