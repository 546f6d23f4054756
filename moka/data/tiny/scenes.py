"""Scenes of the generated world: who is seen where, who is heard when."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .instruments import NAMES, PLACES, POSITIONS

CLIP_SECONDS = 10
BAR_SECONDS = 2
BARS = CLIP_SECONDS // BAR_SECONDS
# How often one, two, three instruments are in the picture, and kinds in the sound.
SHARES_SEEN = (0.2, 0.4, 0.4)
SHARES_HEARD = (0.3, 0.4, 0.3)
T = TypeVar("T")


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
    pool_seen = _shuffled(rng, [name for name in NAMES if name in seen])
    pool_hidden = _shuffled(rng, [name for name in NAMES if name not in seen])
    sounds = []
    for _ in range(_number(rng, SHARES_HEARD)):
        from_picture = pool_seen and rng.random() < 0.65
        sounds.append(_random_sound(rng, (pool_seen if from_picture else pool_hidden).pop()))
    sounds.sort(key=lambda sound: NAMES.index(sound.name))
    return Scene(tuple(seen), PLACES[int(rng.random() * len(PLACES))], tuple(sounds))


def _random_picture(rng: np.random.Generator) -> list[str | None]:
    seen: list[str | None] = [None] * len(POSITIONS)
    for slot in _shuffled(rng, range(len(POSITIONS)))[: _number(rng, SHARES_SEEN)]:
        present = [name for name in seen if name]
        names = present if present and rng.random() < 0.25 else NAMES
        seen[slot] = names[int(rng.random() * len(names))]
    return seen


def _random_sound(rng: np.random.Generator, name: str) -> Sound:
    start, end = 0, BARS
    if rng.random() > 0.3:
        start = int(rng.random() * BARS)
        end = start + 1 + int(rng.random() * (BARS - start))
    return Sound(name, start * BAR_SECONDS, end * BAR_SECONDS, loud=rng.random() < 0.4)


# Plain random() throughout: a generator's choice and permutation take most of a scene's time.
def _number(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    """One, two, ... with these probabilities."""
    drawn, number = rng.random(), 1
    while number < len(shares) and drawn >= sum(shares[:number]):
        number += 1
    return number


def _shuffled(rng: np.random.Generator, items: Iterable[T]) -> list[T]:
    return sorted(items, key=lambda _: rng.random())


def scene_stream(seed: int, stream: str, index: int) -> np.random.Generator:
    """The generator of scene `index` of a stream ("train", "val", "language", ...): streams never share a draw."""
    return np.random.default_rng([seed, int.from_bytes(stream.encode(), "big"), index])
