"""Media of records as the tensors a model takes, decoded once and kept on disk."""

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moka.data.decoding import load_audio, load_image, load_video
from moka.data.media import MediaError, Windowing, cut_windows, resolve_media
from moka.data.questions import MEDIA_COLUMNS

logger = logging.getLogger(__name__)

# Part of every cache key: raise it when decoding or windowing changes what it returns.
CACHE_VERSION = 1
TENSOR_NAMES = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}


class MediaProcessor(Protocol):
    """What the store needs of a processor; `MokaOmniProcessor` is one."""

    image_processor: Any
    feature_extractor: Any

    def process_images(self, frames: Any) -> torch.Tensor:
        """Frames (N, H, W, 3) uint8 -> (N, 3, h, w)."""

    def process_audio(self, windows: Any) -> torch.Tensor:
        """Windows (W, samples) of 16 kHz sound -> (W, frames, mel bins)."""


class MediaStore:
    """Decodes, samples and processes the media of records; what it made once it reads back from `cache_dir`.

    A cached tensor is found under the file's path, size and time, the windowing and the processor's configuration, so
    a change to any of them makes a new one. Several processes may share the folder.

    Args:
        media_root: The folder that records' paths are relative to.
        processor: Turns frames and windows into tensors.
        windowing: Which frames and windows of a clip are taken.
        cache_dir: The folder of the cache; None to decode each time.
    """

    def __init__(
        self,
        media_root: str | Path,
        processor: MediaProcessor,
        windowing: Windowing,
        cache_dir: str | Path | None,
    ) -> None:
        self.media_root = Path(media_root)
        self.processor = processor
        self.windowing = windowing
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    def get(self, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors of a record's media, by the name of the model's argument.

        Returns:
            Any of `pixel_values` (1, 3, h, w), `pixel_values_videos` (num_frames, 3, h, w) and `input_features`
            (num_windows, frames, mel bins): those whose column in the record is a path.

        Raises:
            MediaError: A file cannot be used.
        """
        columns = [column for column in MEDIA_COLUMNS if record[column] is not None]
        return {TENSOR_NAMES[column]: self.load(column, record[column]) for column in columns}

    def load(self, column: str, path: str) -> torch.Tensor:
        """The tensor of one medium.

        Args:
            column: "image", "video" or "audio": what is wanted of the file.
            path: The file, relative to the media folder.

        Raises:
            MediaError: The file cannot be used; its path is the one given.
        """
        file = resolve_media(self.media_root, path)
        try:
            if self.cache_dir is None:
                return self._decode(column, file)
            cached = self.cache_dir / f"{self._key(column, file)}.safetensors"
            tensor = _read(cached)
            if tensor is None:
                tensor = self._decode(column, file)
                _write(cached, tensor)
            return tensor
        except MediaError as error:
            raise MediaError(path, error.reason) from error

    def _decode(self, column: str, file: Path) -> torch.Tensor:
        if column == "image":
            return self.processor.process_images(load_image(file))
        if column == "video":
            return self.processor.process_images(load_video(file, self.windowing.num_frames))
        return self.processor.process_audio(cut_windows(load_audio(file), self.windowing))

    def _key(self, column: str, file: Path) -> str:
        part = self.processor.feature_extractor if column == "audio" else self.processor.image_processor
        windowing = asdict(self.windowing)
        sampled = {
            "image": {},
            "video": {"num_frames": windowing.pop("num_frames")},
            "audio": windowing,
        }[column]
        stat = file.stat()
        identity = [CACHE_VERSION, column, str(file.resolve()), stat.st_size, stat.st_mtime_ns, sampled]
        text = json.dumps([*identity, type(part).__name__, part.to_json_string()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(cached: Path) -> torch.Tensor | None:
    """The tensor of a cache file; None where there is none, or it is damaged."""
    if not cached.is_file():
        return None
    try:
        with safe_open(cached, framework="pt") as file:
            tensor = file.get_tensor("tensor")
            checksum = (file.metadata() or {}).get("crc32")
    except (SafetensorError, OSError) as error:
        logger.warning(f"the cache file {cached} is damaged ({error}) and is made anew")
        return None
    if checksum != _checksum(tensor):
        logger.warning(f"the cache file {cached} is damaged (its checksum differs) and is made anew")
        return None
    return tensor


def _write(cached: Path, tensor: torch.Tensor) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cached.parent, suffix=".incomplete")
    os.close(handle)
    try:
        save_file({"tensor": tensor.contiguous()}, name, metadata={"crc32": _checksum(tensor)})
        os.replace(name, cached)
    except BaseException:
        os.unlink(name)
        raise


def _checksum(tensor: torch.Tensor) -> str:
    return str(zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data))
