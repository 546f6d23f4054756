"""The clips: decoded again, they show and play what the scene says, and the picture never shows who sounds."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from moka.data.decoding import load_audio, load_video
from moka.data.tiny.instruments import BY_NAME, NAMES
from moka.data.tiny.render import FRAME_SIZE, SLOT, draw_frames, play, write_clip
from moka.data.tiny.scenes import Scene, Sound, scene_stream

SCENE = Scene(("violin", None, "drum"), "indoor", (Sound("flute", 2, 6, loud=True),))


def write(folder: Path, scene: Scene = SCENE) -> Path:
    file = folder / "clip.mp4"
    write_clip(file, scene, scene_stream(0, "test", 0))
    return file


def test_a_clip_lasts_ten_seconds_in_picture_and_sound(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert load_video(file, 10).shape == (10, FRAME_SIZE, FRAME_SIZE, 3)
    assert abs(len(load_audio(file)) / 16_000 - 10) < 0.15


def test_sound_starts_and_stops_on_time_after_the_codec(tmp_path: Path) -> None:
    samples = load_audio(write(tmp_path))
    loudness = [float(np.std(samples[t * 16_000 + 2000 : (t + 1) * 16_000 - 2000])) for t in range(10)]
    playing = [level > 0.05 for level in loudness]
    assert playing == [2 <= second < 6 for second in range(10)]


def test_each_instrument_has_its_pitch_after_the_codec(tmp_path: Path) -> None:
    scene = replace(SCENE, sounds=(Sound("cello", 0, 10, loud=True),))
    spectrum = np.abs(np.fft.rfft(load_audio(write(tmp_path, scene))[16_000:32_000]))
    assert abs(int(spectrum[:250].argmax()) - BY_NAME["cello"].pitch) < 0.05 * BY_NAME["cello"].pitch


def test_instruments_stand_where_the_scene_says(tmp_path: Path) -> None:
    frames = load_video(write(tmp_path), 10).astype(float)
    colour = np.array(BY_NAME["drum"].colour)
    near = (np.abs(frames - colour).max(-1) < 70).sum((0, 1)).reshape(3, SLOT).sum(1)
    assert near[2] > 10 * max(near[0], near[1], 1)


def test_the_picture_does_not_depend_on_the_sound() -> None:
    silent = replace(SCENE, sounds=())
    first, second = (draw_frames(scene, scene_stream(0, "test", 1)) for scene in (SCENE, silent))
    np.testing.assert_array_equal(first, second)


def test_the_sound_does_not_depend_on_the_picture() -> None:
    empty = replace(SCENE, seen=(None, None, None))
    first, second = (play(scene, scene_stream(0, "test", 1)) for scene in (SCENE, empty))
    np.testing.assert_array_equal(first, second)


def test_loud_is_louder() -> None:
    for name in NAMES:
        levels = []
        for loud in (True, False):
            scene = replace(SCENE, sounds=(Sound(name, 0, 10, loud),))
            levels.append(play(scene, scene_stream(0, "test", 2)).std())
        assert levels[0] > 2 * levels[1], name
