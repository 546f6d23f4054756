"""Builds the generated world once, artefact by artefact, and finds it again by name."""

import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from filelock import FileLock

from moka.data.locate import cache_folder

from .encoders import build_audio_tower, build_vision_tower
from .language import build_language_model
from .settings import DEMO, MICRO, WorldSettings
from .splits import write_captions, write_media, write_questions

WORLDS = {"moka-tiny": DEMO, "moka-micro": MICRO}
BUILDERS: dict[str, Callable[[WorldSettings, Path], object]] = {
    "llama": partial(build_language_model, family="llama"),
    "media": write_media,
    "audio": build_audio_tower,
    "vision": build_vision_tower,
    "train.jsonl": partial(write_questions, split="train"),
    "val.jsonl": partial(write_questions, split="val"),
    "test.jsonl": partial(write_questions, split="test"),
    "captions.jsonl": write_captions,
    "qwen2": partial(build_language_model, family="qwen2"),
}
DEMO_ARTEFACTS = tuple(name for name in BUILDERS if name != "qwen2")


def resolve(name: str) -> Path:
    """The folder or file that a name such as "moka-tiny/llama" stands for, built first when it is missing.

    Args:
        name: A world ("moka-tiny", or "moka-micro" for tests), a slash, and one of llama, qwen2, vision, audio, media,
            train.jsonl, val.jsonl, test.jsonl, captions.jsonl.

    Raises:
        ValueError: Another name.
    """
    world, _, artefact = name.partition("/")
    if world not in WORLDS or artefact not in BUILDERS:
        raise ValueError(
            f"{name!r} is not part of a generated world: use one of {list(WORLDS)}, a slash, {list(BUILDERS)}"
        )
    return build_world(WORLDS[world], world_folder(world), [artefact])[artefact]


def world_folder(world: str) -> Path:
    """Where a world is kept."""
    return cache_folder() / WORLDS[world].key


def build_world(
    settings: WorldSettings, folder: Path, artefacts: Collection[str] = DEMO_ARTEFACTS, workers: int = 1
) -> dict[str, Path]:
    """Build the artefacts that a folder does not hold yet.

    Args:
        settings: Sizes and seed.
        folder: Where they are kept; finished artefacts are never rebuilt, so a killed build resumes.
        artefacts: Which; all but Qwen2 by default.
        workers: Processes. With more than one, the caller's script must be importable (`if __name__ == "__main__"`).

    Returns:
        The path of each artefact.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in artefacts if not (folder / name).exists()]
    if workers > 1 and len(missing) > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for finished in [pool.submit(_build, name, settings, folder) for name in missing]:
                finished.result()
    else:
        for name in missing:
            _build(name, settings, folder)
    return {name: folder / name for name in artefacts}


def _build(name: str, settings: WorldSettings, folder: Path) -> None:
    target, unfinished = folder / name, folder / f".{name}.partial"
    with FileLock(folder / f".{name}.lock"):
        if target.exists():
            return
        if unfinished.exists() and name != "media":  # half of the clips are good; half of a model is not
            shutil.rmtree(unfinished)
        with _reproducible():
            BUILDERS[name](settings, unfinished)
        unfinished.replace(target)


@contextmanager
def _reproducible() -> Iterator[None]:
    """One thread, since sums depend on how threads split them; and the caller's random state is left alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
