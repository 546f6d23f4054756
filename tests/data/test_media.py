"""Paths below the media folder, and how a clip is sampled."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moka.data.media import (
    SAMPLE_RATE,
    MediaError,
    Windowing,
    cut_windows,
    frame_indices,
    leaves_folder,
    resolve_media,
)

windowings = st.builds(
    Windowing,
    num_windows=st.integers(1, 12),
    window_seconds=st.floats(0.001, 0.2),
    window_offset=st.floats(-0.3, 0.3),
)
waveforms = st.integers(1, 6000).map(lambda n: np.arange(1, n + 1, dtype=np.float32))


@settings(deadline=None)
@given(waveforms, windowings)
def test_windows_are_the_clip_where_there_is_one_and_zero_elsewhere(waveform, windowing):
    windows = cut_windows(waveform, windowing)
    length = math.floor(windowing.window_seconds * SAMPLE_RATE + 0.5)
    assert windows.shape == (windowing.num_windows, length)
    assert windows.dtype == np.float32
    # Sample k holds k + 1, so every value says where it was taken.
    padded = np.concatenate([[0.0], waveform])
    for i, window in enumerate(windows):
        start = i * len(waveform) / windowing.num_windows + windowing.window_offset * SAMPLE_RATE
        taken = np.floor(start + 0.5) + np.arange(length)
        inside = (taken >= 0) & (taken < len(waveform))
        np.testing.assert_array_equal(window, padded[np.where(inside, taken + 1, 0).astype(int)])


@settings(deadline=None)
@given(waveforms, st.integers(1, 8), st.integers(-2000, 2000), st.integers(1, 3000))
def test_shifting_the_offset_shifts_the_windows(waveform, count, offset, length):
    def cut(samples: int) -> np.ndarray:
        return cut_windows(waveform, Windowing(1, count, length / SAMPLE_RATE, samples / SAMPLE_RATE))

    np.testing.assert_array_equal(cut(offset)[:, 1:], cut(offset + 1)[:, :-1])


def test_music_avqa_windows():
    """Facts of the reference: anchors 0, 6 ... 54 s, [c - 0.5, c + 1.5], the first with half a second of silence."""
    waveform = np.arange(1, 60 * SAMPLE_RATE + 1, dtype=np.float32)
    windows = cut_windows(waveform, Windowing())
    assert windows.shape == (10, 32_000)
    assert not windows[0, :8000].any()
    assert windows[0, 8000] == 1
    for i in range(1, 10):
        np.testing.assert_array_equal(windows[i], waveform[(6 * i) * 16_000 - 8000 : (6 * i) * 16_000 + 24_000])


def test_ave_windows_tile_the_clip_and_pad_its_end():
    waveform = np.arange(1, 10 * SAMPLE_RATE + 1, dtype=np.float32)
    ave = Windowing(num_windows=10, window_seconds=1.0, window_offset=0.0)
    np.testing.assert_array_equal(cut_windows(waveform, ave).ravel(), waveform)
    last = cut_windows(waveform[: 5 * SAMPLE_RATE], ave)[-1]
    assert last[:8000].all()
    assert not last[8000:].any()


@given(st.integers(1, 10_000))
def test_ten_frames_are_the_references(n):
    np.testing.assert_array_equal(frame_indices(n, 10), np.arange(0, n, n / 10).astype(int))


@given(st.integers(1, 2000), st.integers(1, 70))
def test_frames_are_as_many_as_asked_and_spread_evenly(n, count):
    indices = frame_indices(n, count)
    assert len(indices) == count
    assert indices[0] == 0
    assert indices[-1] < n
    assert set(np.diff(indices)) <= {n // count, n // count + 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_windows": -1}, "num_windows is -1"),
        ({"window_seconds": 0.0}, "window_seconds is 0.0"),
        ({"window_seconds": float("nan")}, "window_seconds is nan"),
        ({"window_offset": float("inf")}, "window_offset is inf"),
    ],
)
def test_impossible_windowings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Windowing(**values)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../a.mp4", "a/../../b.mp4", "C:\\a.mp4", "\\\\host\\a.mp4", "a\\..\\b.mp4", "/"]
)
def test_paths_that_leave_the_folder(path, tmp_path):
    assert leaves_folder(path)
    with pytest.raises(MediaError, match="leaves the media folder"):
        resolve_media(tmp_path, path)


@pytest.mark.parametrize("path", ["a.mp4", "a/b.mp4", "a..b.mp4", "...", "ü/视频.mp4"])
def test_paths_that_stay_in_the_folder(path, tmp_path):
    assert not leaves_folder(path)
    with pytest.raises(MediaError, match="no such file"):
        resolve_media(tmp_path, path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_bytes(b"x")
    assert resolve_media(tmp_path, path) == tmp_path / path


def test_empty_files_and_folders_are_refused(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4: the file is empty"):
        resolve_media(tmp_path, "empty.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MediaError, match="no such file"):
        resolve_media(tmp_path, "folder")
