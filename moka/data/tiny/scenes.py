"""Scenes of the generated world: who is seen where, who is heard when."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .instruments import NAMES, PLACES, POSITIONS

CLIP_SECONDS = 10
BAR_SECONDS = 2
BARS = CLIP_SECONDS // BAR_SECONDS


@dataclass(frozen=True)
class Sound:
    """One kind of instrument sounding from `start` to `end` (seconds, whole bars, end exclusive)."""

    name: str
    start: int
    end: int
    loud: bool

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Scene:
    """A clip's facts; the picture never shows who sounds, and instruments of one kind sound together.

    Args:
        seen: the instrument at left, middle and right; None where nobody stands.
        place: "indoor" or "outdoor".
        sounds: at most one sound of each kind; its instrument may be seen or not.
    """

    seen: tuple[str | None, ...]
    place: str
    sounds: tuple[Sound, ...]

    @property
    def seen_names(self) -> list[str]:
        """Instruments in the picture from left to right, one entry an instrument."""
        return [name for name in self.seen if name is not None]

    @property
    def heard(self) -> dict[str, Sound]:
        return {sound.name: sound for sound in self.sounds}

    def positions(self, name: str) -> list[str]:
        return [position for position, seen in zip(POSITIONS, self.seen, strict=True) if seen == name]

    def only_first(self, names: set[str]) -> Sound | None:
        """The sound among `names` that starts before all others, or None on a tie."""
        return _only_least([sound for sound in self.sounds if sound.name in names], lambda sound: sound.start)

    def only_last(self, names: set[str]) -> Sound | None:
        """The sound among `names` that starts after all others, or None on a tie."""
        return _only_least([sound for sound in self.sounds if sound.name in names], lambda sound: -sound.start)

    def only_loud(self) -> Sound | None:
        """The only loud sound, or None."""
        loud = [sound for sound in self.sounds if sound.loud]
        return loud[0] if len(loud) == 1 else None


def _only_least(sounds: list[Sound], key: Callable[[Sound], int]) -> Sound | None:
    ranked = sorted(sounds, key=key)
    if not ranked or (len(ranked) > 1 and key(ranked[0]) == key(ranked[1])):
        return None
    return ranked[0]


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene; what is heard depends on what is seen only through which kinds are drawn."""
    seen = _random_picture(rng)
    pool_seen = [str(name) for name in rng.permutation(sorted({name for name in seen if name}))]
    pool_hidden = [str(name) for name in rng.permutation([name for name in NAMES if name not in pool_seen])]
    sounds = []
    for _ in range(rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3])):
        from_picture = pool_seen and rng.random() < 0.65
        sounds.append(_random_sound(rng, (pool_seen if from_picture else pool_hidden).pop()))
    sounds.sort(key=lambda sound: NAMES.index(sound.name))
    return Scene(tuple(seen), PLACES[rng.integers(2)], tuple(sounds))


def _random_picture(rng: np.random.Generator) -> list[str | None]:
    slots = rng.permutation(len(POSITIONS))[: rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4])]
    seen: list[str | None] = [None] * len(POSITIONS)
    for slot in slots:
        present = [name for name in seen if name]
        repeat = bool(present) and rng.random() < 0.25
        seen[slot] = present[rng.integers(len(present))] if repeat else NAMES[rng.integers(len(NAMES))]
    return seen


def _random_sound(rng: np.random.Generator, name: str) -> Sound:
    start, end = 0, BARS
    if rng.random() > 0.3:
        start = int(rng.integers(0, BARS))
        end = int(rng.integers(start + 1, BARS + 1))
    return Sound(name, start * BAR_SECONDS, end * BAR_SECONDS, loud=bool(rng.random() < 0.4))


def scene_stream(seed: int, stream: str, index: int) -> np.random.Generator:
    """The generator of scene `index` of a stream ("train", "val", "language", ...): streams never share a draw."""
    return np.random.default_rng([seed, int.from_bytes(stream.encode(), "big"), index])
