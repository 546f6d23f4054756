"""Checking media before they are needed."""

import numpy as np
import pytest
from datasets import Dataset

from moka.data.check import check_media
from moka.data.media import Windowing
from moka.data.questions import FEATURES
from moka.data.store import MediaStore
from tests.data.files import tone, truncate, write_clip, write_sound

WINDOWING = Windowing(num_frames=2, num_windows=2, window_seconds=0.5, window_offset=0.0)


def dataset(*media: tuple[str | None, str | None]) -> Dataset:
    rows = [
        {
            **dict.fromkeys(FEATURES),
            "question_id": f"q{i}",
            "question": "?",
            "type": "",
            "video": video,
            "audio": audio,
        }
        for i, (video, audio) in enumerate(media)
    ]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture
def store(tmp_path, processor):
    media = tmp_path / "media"
    write_clip(media / "good.mp4", 1.0, sound=tone(1.0))
    write_clip(media / "silent.mp4", 1.0)
    truncate(write_clip(media / "long.mp4", 5.0, sound=tone(5.0)))
    write_sound(media / "good.wav", tone(1.0))
    write_sound(media / "zero.wav", np.zeros(0, np.float32))
    (media / "empty.mp4").touch()
    return MediaStore(media, processor, WINDOWING, tmp_path / "cache")


@pytest.mark.parametrize("num_proc", [None, 2])
def test_failures_are_reported_by_row_path_and_reason(store, num_proc):
    questions = dataset(
        ("good.mp4", "good.mp4"),
        ("silent.mp4", "silent.mp4"),
        ("good.mp4", "good.wav"),
        ("cut-long.mp4", "zero.wav"),
        (None, None),
        ("empty.mp4", "empty.mp4"),
        ("absent.mp4", None),
        ("silent.mp4", "../media/good.wav"),
        ("silent.mp4", None),
    )
    good, failures = check_media(questions, store, num_proc=num_proc)
    assert good["question_id"][:] == ["q0", "q2", "q4", "q8"]
    assert good.features == FEATURES
    expected = [
        (1, "silent.mp4", "no sound track"),
        (3, "cut-long.mp4", "truncated"),
        (3, "zero.wav", "zero duration"),
        (5, "empty.mp4", "the file is empty"),
        (6, "absent.mp4", "no such file"),
        (7, "../media/good.wav", "leaves the media folder"),
    ]
    assert [(f.row, f.question_id, f.path) for f in failures] == [(row, f"q{row}", path) for row, path, _ in expected]
    for failure, (_, _, reason) in zip(failures, expected, strict=True):
        assert reason in failure.reason


def test_each_file_is_decoded_once_and_cached(store, monkeypatch):
    loaded = []
    load = store.load
    monkeypatch.setattr(store, "load", lambda *medium: loaded.append(medium) or load(*medium))
    questions = dataset(*[("good.mp4", "good.mp4"), ("good.mp4", "good.wav")] * 3)
    good, failures = check_media(questions, store)
    assert (len(good), failures) == (6, [])
    assert sorted(loaded) == [("audio", "good.mp4"), ("audio", "good.wav"), ("video", "good.mp4")]
    assert len(list(store.cache_dir.iterdir())) == 3


def test_media_that_are_withheld_are_not_checked(store):
    questions = dataset(("silent.mp4", "silent.mp4"), ("absent.mp4", "good.wav"))
    assert [f.row for f in check_media(questions, store, modalities=["text", "visual"])[1]] == [1]
    assert [f.row for f in check_media(questions, store, modalities=["text", "audio"])[1]] == [0]
    assert check_media(questions, store, modalities=["text"])[1] == []


def test_progress_is_shown(store, capsys):
    check_media(dataset(("good.mp4", "good.mp4")), store)
    shown = capsys.readouterr().err
    assert "Checking media" in shown
    assert "2/2" in shown
