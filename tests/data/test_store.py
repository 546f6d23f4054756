"""Records' media as tensors, and their cache."""

import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moka.data import decoding
from moka.data.media import MediaError, Windowing
from moka.data.questions import FEATURES
from moka.data.store import TENSOR_NAMES, MediaStore
from tests.data.conftest import FakeProcessor
from tests.data.files import grey_of, tone, write_clip, write_sound

WINDOWING = Windowing(num_frames=4, num_windows=3, window_seconds=0.5, window_offset=0.0)
NO_MEDIA = {**dict.fromkeys(FEATURES), "question_id": "1", "question": "?", "type": ""}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    write_clip(folder / "a.mp4", 2.0, sound=tone(2.0))
    write_sound(folder / "a.wav", np.concatenate([tone(1.0), np.zeros(8000, np.float32)]))
    Image.new("RGB", (8, 8), (7, 7, 7)).save(folder / "a.png")
    return folder


@pytest.fixture
def store(media: Path, processor: FakeProcessor, tmp_path: Path) -> MediaStore:
    return MediaStore(media, processor, WINDOWING, tmp_path / "cache")


def count_decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    decoded: list[Path] = []

    def counted(file: Path, *arguments: int) -> np.ndarray:
        decoded.append(file)
        return decoding.load_video(file, *arguments)

    monkeypatch.setattr("moka.data.store.load_video", counted)
    return decoded


def cache_files(store: MediaStore) -> list[Path]:
    assert store.cache_dir is not None
    return sorted(store.cache_dir.iterdir())


def test_each_medium_of_a_record(store):
    tensors = store.get({**NO_MEDIA, "image": "a.png", "video": "a.mp4", "audio": "a.wav"})
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "pixel_values": (1, 3, 4, 4),
        "pixel_values_videos": (4, 3, 4, 4),
        "input_features": (3, 4, 5),
    }
    assert tensors["pixel_values"].unique().tolist() == [7]
    greys = tensors["pixel_values_videos"][:, 0, 0, 0]
    assert greys.tolist() == pytest.approx([grey_of(i) for i in (0, 2, 5, 7)], abs=6)
    # The tone's power is 0.09 / 2; the third window starts at the second when the sound ends.
    assert tensors["input_features"][:2].flatten().tolist() == pytest.approx([0.045] * 40, rel=0.01)
    assert tensors["input_features"][2].max() < 1e-3


def test_absent_media_are_absent(store):
    assert store.get(NO_MEDIA) == {}
    assert store.get({**NO_MEDIA, "audio": "a.mp4"}).keys() == {"input_features"}


def test_the_cache_gives_back_what_was_made(store, monkeypatch):
    decoded = count_decodings(monkeypatch)
    record = {**NO_MEDIA, "image": "a.png", "video": "a.mp4", "audio": "a.mp4"}
    first, second = store.get(record), store.get(record)
    assert len(decoded) == 1
    assert len(cache_files(store)) == 3
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert tensor.dtype == second[name].dtype


def test_without_a_cache_every_time_is_the_first(media, processor, monkeypatch, tmp_path):
    decoded = count_decodings(monkeypatch)
    store = MediaStore(media, processor, WINDOWING, None)
    assert torch.equal(store.load("video", "a.mp4"), store.load("video", "a.mp4"))
    assert len(decoded) == 2
    assert sorted(tmp_path.iterdir()) == [media]


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        ({"num_frames": 5}, {"video"}),
        ({"num_windows": 4}, {"audio"}),
        ({"window_seconds": 0.25}, {"audio"}),
        ({"window_offset": 0.1}, {"audio"}),
    ],
)
def test_only_what_the_windowing_changes_is_made_anew(store, media, processor, change, columns):
    record = {**NO_MEDIA, "image": "a.png", "video": "a.mp4", "audio": "a.mp4"}
    store.get(record)
    before = cache_files(store)
    changed = MediaStore(media, processor, Windowing(**{**vars(WINDOWING), **change}), store.cache_dir)
    old, new = store.get(record), changed.get(record)
    differing = {name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])}
    assert differing == {TENSOR_NAMES[column] for column in columns}
    assert len(cache_files(store)) == len(before) + len(columns)


@pytest.mark.parametrize("config", [{"image_size": 6}, {"mel_bins": 7}])
def test_the_processors_configuration_is_part_of_the_key(store, media, processor, config):
    record = {**NO_MEDIA, "video": "a.mp4", "audio": "a.mp4"}
    first = store.get(record)
    other = MediaStore(media, FakeProcessor(processor.tokenizer, **config), WINDOWING, store.cache_dir).get(record)
    assert [first[name].shape != other[name].shape for name in first].count(True) == 1
    assert len(cache_files(store)) == 3


def test_a_changed_file_is_decoded_again(store, media):
    before = store.load("audio", "a.wav")
    write_sound(media / "a.wav", 0.5 * np.concatenate([tone(1.0), np.zeros(8000, np.float32)]))
    os.utime(media / "a.wav", ns=(1, 1))
    after = store.load("audio", "a.wav")
    assert float(after[0].mean()) == pytest.approx(float(before[0].mean()) / 4, rel=0.01)


def damage_header(file: Path) -> None:
    file.write_bytes(b"\xff" * 100)


def damage_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def damage_value(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def damage_meaning(file: Path) -> None:
    save_file({"other": torch.zeros(2)}, file)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_header, damage_end, damage_value, damage_meaning, empty])
def test_a_damaged_cache_file_is_made_anew(store, caplog, damage):
    expected = store.load("video", "a.mp4")
    (file,) = cache_files(store)
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(store.load("video", "a.mp4"), expected)
    assert f"the cache file {file} is damaged" in caplog.text
    assert torch.equal(load_file(file)["tensor"], expected)
    caplog.clear()
    store.load("video", "a.mp4")
    assert not caplog.text


def test_an_interrupted_write_leaves_nothing(store, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moka.data.store.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.load("video", "a.mp4")
    assert cache_files(store) == []


def test_errors_name_the_path_of_the_record(store, media):
    (media / "sub").mkdir()
    (media / "sub" / "b.mp4").write_bytes(b"no video")
    for path, reason in (
        ("sub/b.mp4", "not a readable media file"),
        ("sub/c.mp4", "no such file"),
        ("../media/a.mp4", "leaves the media folder"),
    ):
        with pytest.raises(MediaError, match=reason) as error:
            store.get({**NO_MEDIA, "video": path})
        assert error.value.path == path
        assert str(error.value).startswith(f"{path}: ")


def _hammer(store: MediaStore, results: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    results.put([float(store.load("audio", f"{i}.wav").sum()) for i in range(8)])


def test_several_workers_share_a_cache(store, media):
    for i in range(8):
        write_sound(media / f"{i}.wav", tone(1.0, hertz=100.0 * (i + 1)) * (i + 1) / 8)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_hammer, args=(store, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    first, *others = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert others == [first, first]
    assert len(cache_files(store)) == 8
