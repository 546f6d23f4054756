"""Media files -> frames and sound, decoded in full: a damaged or cut file is an error, never a shorter clip."""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from moka.data.media import SAMPLE_RATE, MediaError, frame_indices

# MP3 is not among them: libsndfile believes its own guess of the length of an untagged MP3 and drops what is beyond.
SOUND_FILE_SUFFIXES = (".wav", ".flac", ".ogg")

# Containers whose header states the duration; elsewhere (MPEG-TS, bare streams) FFmpeg guesses it from the bit rate.
_CONTAINERS_WITH_DURATION = {"mov", "matroska", "avi"}
# Programs that write a WAV to a pipe leave the sizes in its header at (nearly) the largest number.
_WAV_SIZE_UNKNOWN = 0x7FFF0000
# The longest frame of a lossy audio codec: how much padding may follow the declared end of a sound track.
_LONGEST_AUDIO_FRAME = 4096


def load_image(file: Path) -> NDArray[np.uint8]:
    """Read an image as RGB, turned as its EXIF orientation says: (1, H, W, 3) uint8.

    Raises:
        MediaError: Not an image, truncated, or too large to be safe.
    """
    try:
        with Image.open(file) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise MediaError(file, "not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(file, f"the image cannot be decoded: {error}") from error
    return pixels[None]


def load_video(file: Path, num_frames: int) -> NDArray[np.uint8]:
    """Decode evenly spread frames, counted over what is really decoded: (num_frames, H, W, 3) uint8 RGB.

    Raises:
        MediaError: No video stream, no frame, truncated, or damaged.
    """
    count = _survey(file)
    frames, decoded = _decode_frames(file, frame_indices(count, num_frames) if count else np.zeros(1, np.int64))
    if decoded == 0:
        raise MediaError(file, "the video has no frames")
    if decoded != count:
        # One packet is nearly always one frame; only where it is not, the indices are known after a first decoding.
        frames, _ = _decode_frames(file, frame_indices(decoded, num_frames))
    return frames


def load_audio(file: Path) -> NDArray[np.float32]:
    """Decode a sound file, or the sound track of a video: (samples,) float32, mono, 16 kHz.

    Channels are averaged. A sound track that starts later than its video is preceded by silence.

    Raises:
        MediaError: No sound, zero duration, truncated, or damaged.
    """
    if file.suffix.lower() in SOUND_FILE_SUFFIXES:
        waveform, rate = _read_sound_file(file)
    else:
        waveform, rate = _read_sound_track(file)
    if waveform.shape[-1] == 0:
        raise MediaError(file, "the sound has zero duration")
    if not np.isfinite(waveform).all():
        raise MediaError(file, "the sound holds samples that are not finite numbers")
    mono = librosa.to_mono(waveform)
    return np.asarray(librosa.resample(mono, orig_sr=rate, target_sr=SAMPLE_RATE), dtype=np.float32)


def _open(file: Path) -> InputContainer:
    try:
        return av.open(str(file))
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(file, f"not a readable media file, or truncated: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, av.FFmpegError) and error.strerror else str(error)


def _survey(file: Path) -> int:
    """Walk through a file's packets: the number of video packets, once the file proves to be whole.

    What is found is compared with what is declared: FFmpeg takes a cut file for one that ends early.
    """
    end, packets = 0.0, Counter[str]()
    with _open(file) as container:
        try:
            for packet in container.demux():
                packets[packet.stream.type] += packet.size > 0
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.FFmpegError as error:
            raise MediaError(file, f"damaged after {end:.1f} s: {_reason(error)}") from error
        held = end - (container.start_time or 0) / av.time_base
        declared = (container.duration or 0) / av.time_base
        formats = container.format.name.split(",")
    if not _CONTAINERS_WITH_DURATION.isdisjoint(formats) and held < declared - _tolerance(declared):
        raise MediaError(file, f"truncated: it holds {held:.1f} s of the {declared:.1f} s it declares")
    if formats == ["mp3"] and packets["audio"] < 0.95 * _mp3_frames(file):
        raise MediaError(file, f"truncated: it holds {packets['audio']} of the {_mp3_frames(file)} frames it declares")
    return packets["video"]


def _tolerance(seconds: float) -> float:
    return max(0.5, 0.05 * seconds)


def _mp3_frames(file: Path) -> int:
    """The number of frames in the tag that encoders put into an MP3's first frame; 0 where there is none.

    FFmpeg's own duration will not do: where the tag and the file's size differ, it guesses from the bit rate.
    """
    with file.open("rb") as stream:
        head = stream.read(10)
        id3_size = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        stream.seek(id3_size if head[:3] == b"ID3" else 0)
        tag = re.search(rb"(?:Xing|Info)\0\0\0(.)(.{4})", stream.read(64), re.DOTALL)
    return int.from_bytes(tag[2], "big") if tag and tag[1][0] & 1 else 0


def _decoded(file: Path, container: InputContainer, stream: Any) -> Iterator[Any]:
    """The frames of a stream. What cannot be decoded may only be a little at the end, where tags and padding are."""
    time, lost = 0.0, 0.0
    failure = ""
    for packet in container.demux(stream):
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            failure = failure or _reason(error)
            lost += float((packet.duration or 0) * packet.time_base)
            frames = []
        if failure and (frames or lost > 0.5):
            raise MediaError(file, f"the {stream.type} is damaged after {time:.1f} s: {failure}")
        for frame in frames:
            time = frame.time or 0.0
            yield frame


def _decode_frames(file: Path, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], int]:
    """The frames at `indices` (those that exist) and how many frames the video has."""
    kept: dict[int, NDArray[np.uint8]] = {}
    wanted = set(indices.tolist())
    height, width, count = 0, 0, 0
    with _open(file) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise MediaError(file, "the file has no video stream")
        for frame in _decoded(file, container, stream):
            if count in wanted:
                height, width = height or frame.height, width or frame.width
                picture = frame.to_ndarray(format="rgb24", height=height, width=width)
                kept[count] = np.rot90(picture, k=frame.rotation // 90)
            count += 1
    frames = [kept[index] for index in indices.tolist() if index in kept]
    return (np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)), count


def _read_sound_file(file: Path) -> tuple[NDArray[np.float32], int]:
    """(channels, samples) or (samples,) at the file's own rate."""
    _check_wav_size(file)
    try:
        with soundfile.SoundFile(file) as sound:
            declared, rate = sound.frames, sound.samplerate
            waveform, _ = librosa.load(sound, sr=None, mono=False)
    except soundfile.LibsndfileError as error:
        raise MediaError(file, f"the sound cannot be decoded: {error.error_string}") from error
    held = waveform.shape[-1]
    if held / rate < declared / rate - _tolerance(declared / rate):
        raise MediaError(file, f"truncated: it holds {held / rate:.1f} s of the {declared / rate:.1f} s it declares")
    return waveform, rate


def _check_wav_size(file: Path) -> None:
    """libsndfile takes a cut WAV for a shorter one, so its header is compared with the file's size here."""
    with file.open("rb") as stream:
        head = stream.read(8)
    if len(head) < 8 or head[:4] != b"RIFF":
        return
    declared = struct.unpack("<I", head[4:])[0] + 8
    size = file.stat().st_size
    if size < declared < _WAV_SIZE_UNKNOWN:
        raise MediaError(file, f"truncated: it holds {size} of the {declared} bytes it declares")


def _read_sound_track(file: Path) -> tuple[NDArray[np.float32], int]:
    """(channels, samples) at the track's own rate, from the start of the video."""
    _survey(file)
    with _open(file) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise MediaError(file, "the file has no sound track")
        blocks: list[NDArray[np.float32]] = []
        delay, rate = 0.0, stream.rate
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        for frame in _decoded(file, container, stream):
            if not blocks and frame.time is not None:
                delay = frame.time - (container.start_time or 0) / av.time_base
            blocks.extend(np.asarray(block.to_ndarray(), np.float32) for block in resampler.resample(frame))
        if not blocks:
            raise MediaError(file, "the sound track has zero duration")
        waveform = np.concatenate(blocks, axis=-1)
        if stream.duration is not None and stream.time_base is not None:
            declared = round(float(stream.duration * stream.time_base) * rate)
            if 0 < waveform.shape[-1] - declared <= _LONGEST_AUDIO_FRAME:
                waveform = waveform[:, :declared]
    silence = np.zeros((len(waveform), max(round(delay * rate), 0)), dtype=np.float32)
    return np.concatenate([silence, waveform], axis=-1), rate
