"""What a media file is to this package: a path below the media folder, sampled in frames and windows of sound."""

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000


class MediaError(Exception):
    """A media file that cannot be used.

    Args:
        path: The path, as the record names it.
        reason: What is wrong with the file, for a person.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Windowing:
    """How a clip is sampled: `num_frames` frames and `num_windows` windows of sound, spread over its whole length.

    The defaults are MUSIC-AVQA's: ten 2 s windows, each starting half a second before a tenth of the clip. AVE's ten
    consecutive 1 s windows of a 10 s clip are `window_seconds=1, window_offset=0`.

    Args:
        num_frames: Frames per video.
        num_windows: Audio windows per clip.
        window_seconds: Length of a window in seconds.
        window_offset: Start of window i in seconds, counted from i * duration / num_windows.

    Raises:
        ValueError: A count below one, a length below one sample or an offset that is not finite.
    """

    num_frames: int = 10
    num_windows: int = 10
    window_seconds: float = 2.0
    window_offset: float = -0.5

    def __post_init__(self) -> None:
        for name in ("num_frames", "num_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if not (math.isfinite(self.window_seconds) and self.window_seconds * SAMPLE_RATE >= 1):
            raise ValueError(f"window_seconds is {self.window_seconds}, it must be at least one sample (1/16000 s)")
        if not math.isfinite(self.window_offset):
            raise ValueError(f"window_offset is {self.window_offset}, it must be a finite number of seconds")


def leaves_folder(path: str) -> bool:
    """Whether a record's path is absolute or climbs out of the media folder with `..`, on any platform."""
    absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or PureWindowsPath(path).root
    return bool(absolute) or ".." in PureWindowsPath(path).parts


def resolve_media(root: Path, path: str) -> Path:
    """The file that a record's path names below the media folder.

    Raises:
        MediaError: The path leaves the folder, or there is no such file, or the file is empty.
    """
    if leaves_folder(path):
        raise MediaError(path, "the path leaves the media folder; use a path relative to it, without '..'")
    file = root / path
    if not file.is_file():
        raise MediaError(path, f"no such file in {root}")
    if file.stat().st_size == 0:
        raise MediaError(path, "the file is empty (0 bytes)")
    return file


def frame_indices(num_decoded: int, num_frames: int) -> NDArray[np.int64]:
    """`np.arange(0, n, n / num_frames)` in whole numbers, where the step's rounding can neither add nor shift a frame.

    Args:
        num_decoded: Frames in the video, n >= 1.
        num_frames: Frames wanted; a video with fewer repeats some.

    Returns:
        (num_frames,) indices, not decreasing.
    """
    return np.arange(num_frames, dtype=np.int64) * num_decoded // num_frames


def cut_windows(waveform: NDArray[np.float32], windowing: Windowing) -> NDArray[np.float32]:
    """Cut windows [c_i + offset, c_i + offset + window_seconds] at c_i = i * duration / num_windows, zeros outside.

    Args:
        waveform: (samples,) mono at 16 kHz.
        windowing: The counts and lengths.

    Returns:
        (num_windows, window samples) float32.
    """
    length = math.floor(windowing.window_seconds * SAMPLE_RATE + 0.5)
    windows = np.zeros((windowing.num_windows, length), dtype=np.float32)
    for i, window in enumerate(windows):
        anchor = i * len(waveform) / windowing.num_windows
        start = math.floor(anchor + windowing.window_offset * SAMPLE_RATE + 0.5)
        inside = waveform[max(start, 0) : max(start + length, 0)]
        skipped = max(-start, 0)
        window[skipped : skipped + len(inside)] = inside
    return windows
