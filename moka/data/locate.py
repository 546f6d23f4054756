"""Finding inputs by name: a path, or a part of the generated world, which is built when it is missing."""

import os
import sys
from pathlib import Path

GENERATED = ("moka-tiny/", "moka-micro/")


def locate(name: str) -> str:
    """Turn a generated name into the path of what it stands for; any other name (a path, a hub id) stays.

    Args:
        name: Such as "moka-tiny/llama"; "moka-micro/..." is a world of a few clips and untrained models, for tests.

    Raises:
        ValueError: The generated world has no such part.
    """
    if not name.startswith(GENERATED):
        return name
    from moka.data.tiny import resolve  # imported late: building the world needs much that reading data does not

    return str(resolve(name))


def existing(name: str) -> Path:
    """As `locate`, for a file or folder that must be there.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(locate(name))
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {name}")
    return path


def cache_folder() -> Path:
    """Return $MOKA_CACHE, or "moka" in the platform's cache folder."""
    if chosen := os.environ.get("MOKA_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "moka"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "moka"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moka"


def media_cache(name: str | None) -> Path | None:
    """Return the folder for decoded media: the one named, that in the cache folder, or None for "off"."""
    if name == "off":
        return None
    return cache_folder() / "media" if name is None else Path(name)
