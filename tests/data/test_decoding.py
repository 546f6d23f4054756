"""Decoding real files, whole and damaged."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from moka.data.decoding import load_audio, load_image, load_video
from moka.data.media import MediaError
from tests.data.files import grey_of, tone, truncate, write_bare_mp3, write_clip, write_sound


def greys(frames: np.ndarray) -> list[int]:
    """The grey left of the middle of each frame, to the nearest that a clip holds."""
    values = frames[:, :, 4 : frames.shape[2] // 2 - 4].mean(axis=(1, 2, 3))
    return [round(value / 24) * 24 for value in values]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("seconds", [0.3, 2.0, 10.0])
def test_frames_are_those_asked_for(tmp_path, codec, seconds):
    clip = write_clip(tmp_path / "a.mp4", seconds, codec=codec, sound=tone(seconds))
    frames = load_video(clip, 10)
    count = max(1, round(seconds * 5))
    assert frames.shape == (10, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert greys(frames) == [grey_of(int(i * count / 10)) for i in range(10)]
    assert frames[:, :, 28:].mean() < 8


def test_a_long_clip_with_few_frames_a_second(tmp_path):
    clip = write_clip(tmp_path / "long.mp4", 61.0, fps=2, codec="mpeg4", sound=tone(61.0, 8000), rate=8000)
    assert greys(load_video(clip, 4)) == [grey_of(i * 122 // 4) for i in range(4)]
    assert len(load_audio(clip)) == pytest.approx(61 * 16_000, abs=160)


@pytest.mark.parametrize("container", ["mkv", "avi", "ts"])
def test_other_containers(tmp_path, container):
    clip = write_clip(tmp_path / f"a.{container}", 2.0, codec="mpeg4", sound=tone(2.0), sound_codec="libmp3lame")
    assert greys(load_video(clip, 5)) == [grey_of(i) for i in (0, 2, 4, 6, 8)]
    assert correlation(np.abs(load_audio(clip)), np.abs(load_audio(clip))) > 0.99
    assert len(load_audio(clip)) == pytest.approx(32_000, abs=3000)


def test_a_wrong_frame_count_in_the_container_does_not_matter(tmp_path):
    clip = write_clip(tmp_path / "a.avi", 2.0, codec="mpeg4")
    content = clip.read_bytes()
    length = content.index(b"strh") + 8 + 32
    assert int.from_bytes(content[length : length + 4], "little") in (10, 11)
    clip.write_bytes(content[:length] + (3).to_bytes(4, "little") + content[length + 4 :])
    assert greys(load_video(clip, 5)) == [grey_of(i) for i in (0, 2, 4, 6, 8)]


def test_packets_that_are_not_frames_are_counted_out(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "a.mp4", 2.0)
    expected = load_video(clip, 5)
    for wrong in (0, 3, 40):
        monkeypatch.setattr("moka.data.decoding._survey", lambda _, wrong=wrong: wrong)
        np.testing.assert_array_equal(load_video(clip, 5), expected)


def test_pictures_are_turned_as_a_player_would(tmp_path):
    upright = load_video(write_clip(tmp_path / "a.mp4", 1.0), 1)
    turned = load_video(write_clip(tmp_path / "b.mp4", 1.0, rotation=90), 1)
    assert turned.shape == (1, 48, 32, 3)
    np.testing.assert_array_equal(turned[0], np.rot90(upright[0]))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_files_become_mono_16_khz(tmp_path, suffix, rate):
    left, right = tone(1.5, rate, 440), tone(1.5, rate, 660)
    sound = load_audio(write_sound(tmp_path / f"a.{suffix}", np.stack([left, right]), rate))
    assert sound.dtype == np.float32
    assert len(sound) == pytest.approx(24_000, abs=1)
    assert correlation(sound, (tone(1.5, hertz=440) + tone(1.5, hertz=660)) / 2) > 0.99


@pytest.mark.parametrize("seconds", [0.3, 10.0])
def test_the_sound_inside_a_video(tmp_path, seconds):
    stereo = np.stack([tone(seconds, 44_100), np.zeros_like(tone(seconds, 44_100))])
    sound = load_audio(write_clip(tmp_path / "a.mp4", seconds, sound=stereo, rate=44_100))
    assert len(sound) == pytest.approx(seconds * 16_000, abs=2)
    assert correlation(sound, tone(seconds)) > 0.98
    assert np.abs(sound[1000:-1000]).max() == pytest.approx(0.15, abs=0.02)


def test_sound_that_starts_late_stays_in_time_with_the_pictures(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 3.0, sound=tone(2.0), sound_start=1.0)
    sound = load_audio(clip)
    assert np.abs(sound[: 16_000 - 1200]).max() < 0.01
    assert np.abs(sound[16_000 : 16_000 + 1600]).max() > 0.2
    assert len(sound) == pytest.approx(48_000, abs=2)


def test_an_mp3_of_unstated_length_is_decoded_to_its_end(tmp_path):
    """libsndfile's guess from the first frames would lose half of the first file and call the second one cut."""
    high = write_bare_mp3(tmp_path / "high.mp3", 5.0, 160_000).read_bytes()
    low = write_bare_mp3(tmp_path / "low.mp3", 5.0, 16_000).read_bytes()
    for name, content in (("a.mp3", high + low), ("b.mp3", low + high)):
        (tmp_path / name).write_bytes(content)
        assert len(load_audio(tmp_path / name)) == pytest.approx(160_000, abs=6000)


@pytest.mark.parametrize("tail", [b"TAG" + b"t" * 125, b"APETAGEX" + bytes(range(200)) * 8, bytes(5000)])
def test_what_follows_the_sound_of_an_mp3_is_passed_over(tmp_path, tail):
    mp3 = write_sound(tmp_path / "a.mp3", tone(3.0))
    expected = load_audio(mp3)
    mp3.write_bytes(mp3.read_bytes() + tail)
    np.testing.assert_array_equal(load_audio(mp3)[:48_000], expected)
    assert len(load_audio(mp3)) == pytest.approx(48_000, abs=4000)


def test_a_wav_of_unstated_size_is_read(tmp_path):
    """What a program leaves that wrote to a pipe."""
    wav = write_sound(tmp_path / "a.wav", tone(1.0))
    content = wav.read_bytes()
    wav.write_bytes(content[:4] + b"\xff\xff\xff\xff" + content[8:40] + b"\xff\xff\xff\xff" + content[44:])
    assert len(load_audio(wav)) == 16_000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tail.mp4", {}),
        ("faststart.mp4", {"movflags": "faststart"}),
        ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", {}),
    ],
)
def test_truncated_videos(tmp_path, name, options):
    clip = write_clip(tmp_path / name, 10.0, sound=tone(10.0), options=options)
    load_video(clip, 3)
    cut = truncate(clip)
    for load in (lambda: load_video(cut, 3), lambda: load_audio(cut)):
        with pytest.raises(MediaError, match="truncated") as error:
            load()
        assert error.value.path == str(cut)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_pictures_that_cannot_be_decoded(tmp_path, codec):
    """The index is whole, so every packet is there; what is in them is not."""
    clip = write_clip(tmp_path / "a.mp4", 10.0, codec=codec, sound=tone(10.0), options={"movflags": "faststart"})
    content = bytearray(clip.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    clip.write_bytes(bytes(content))
    for load in (lambda: load_video(clip, 3), lambda: load_audio(clip)):
        with pytest.raises(MediaError, match="damaged"):
            load()


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_truncated_sound_files(tmp_path, suffix):
    cut = truncate(write_sound(tmp_path / f"a.{suffix}", tone(4.0)))
    with pytest.raises(MediaError, match=r"truncated|cannot be decoded|zero duration"):
        load_audio(cut)


def test_damaged_pictures_are_not_skipped(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", 10.0, sound=tone(10.0))
    content = bytearray(clip.read_bytes())
    middle = slice(len(content) // 3, 2 * len(content) // 3)
    content[middle] = bytes(len(content[middle]))
    clip.write_bytes(bytes(content))
    with pytest.raises(MediaError, match=r"damaged|truncated"):
        load_audio(clip)


def test_files_without_what_is_wanted(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", 1.0)
    with pytest.raises(MediaError, match="no sound track"):
        load_audio(silent)
    sound_only = write_sound(tmp_path / "a.wav", tone(1.0))
    with pytest.raises(MediaError, match="no video stream"):
        load_video(sound_only, 2)
    with pytest.raises(MediaError, match="zero duration"):
        load_audio(write_sound(tmp_path / "zero.wav", np.zeros(0, np.float32)))


@pytest.mark.parametrize("name", ["a.mp4", "a.wav", "a.mp3", "a.flac", "a.bin"])
def test_files_that_are_no_media(tmp_path, name):
    (tmp_path / name).write_text("<html>404 Not Found</html>" * 40)
    with pytest.raises(MediaError, match=r"not a readable media file|cannot be decoded"):
        load_audio(tmp_path / name)
    with pytest.raises(MediaError, match=r"not a readable media file|no video stream"):
        load_video(tmp_path / name, 2)


def test_samples_that_are_not_numbers(tmp_path):
    waveform = tone(0.5)
    waveform[100] = np.nan
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    with pytest.raises(MediaError, match="not finite"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_images_become_rgb(tmp_path, mode):
    Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(tmp_path / "a.png")
    pixels = load_image(tmp_path / "a.png")
    assert pixels.shape == (1, 4, 6, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, 200, atol=5)


def test_images_are_turned_as_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (1, 6, 4, 3)


def test_broken_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="cannot be decoded"):
        load_image(truncate(tmp_path / "a.png"))
    (tmp_path / "b.jpg").write_text("no image")
    with pytest.raises(MediaError, match="not an image"):
        load_image(tmp_path / "b.jpg")
