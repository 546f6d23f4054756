"""MUSIC-AVQA's question templates that the generated world can answer, and the answer each scene gives.

Where MUSIC-AVQA leaves the meaning open, the world decides: an audio-visual question about "the instrument in the
video" means one that is both in the picture and in the sound, and instruments of one kind sound together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .instruments import NAMES
from .scenes import Scene, Sound

# The question's slot values, the answer, and (for audio-visual questions) what the picture or the sound alone already
# tells: within it, all answers must be equally frequent, or that one modality would do.
Case = tuple[tuple[str, ...], str] | tuple[tuple[str, ...], str, str]
NUMBERS = ("zero", "one", "two", "three")
SIDES = (("left", "right"), ("right", "left"))


@dataclass(frozen=True)
class Template:
    """One question template.

    Args:
        type: MUSIC-AVQA's question type.
        wording: MUSIC-AVQA's wording, `{0}` and `{1}` for the slots.
        cases: scene -> every case the scene gives.
    """

    type: str
    wording: str
    cases: Callable[[Scene], Iterator[Case]]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _kinds(scene: Scene) -> set[str]:
    return set(scene.seen_names)


# Audio


def heard_count(scene: Scene) -> Iterator[Case]:
    yield (), NUMBERS[len(scene.sounds)]


def heard_one(scene: Scene) -> Iterator[Case]:
    for name in NAMES:
        yield (name,), _yes(name in scene.heard)


def louder(scene: Scene) -> Iterator[Case]:
    for first, second in _ordered_pairs(scene.sounds):
        yield (first.name, second.name), _yes(first.loud and not second.loud)


def _ordered_pairs(items: Sequence[Sound]) -> list[tuple[Sound, Sound]]:
    return [(first, second) for first in items for second in items if first is not second]


# Visual


def seen_types(scene: Scene) -> Iterator[Case]:
    yield (), NUMBERS[len(_kinds(scene))]


def seen_one(scene: Scene) -> Iterator[Case]:
    for name in NAMES:
        yield (name,), _yes(name in _kinds(scene))


def outermost(scene: Scene) -> Iterator[Case]:
    if len(scene.seen_names) > 1:
        yield ("leftest",), scene.seen_names[0]
        yield ("rightest",), scene.seen_names[-1]


# Audio-visual


def voiceover(scene: Scene) -> Iterator[Case]:
    seen, heard = len(_kinds(scene)), len(scene.sounds)
    if heard <= seen:  # with more heard than seen the numbers alone say yes
        yield (), _yes(any(name not in _kinds(scene) for name in scene.heard)), f"{seen} seen, {heard} heard"


def sounding_count(scene: Scene) -> Iterator[Case]:
    yield (), NUMBERS[sum(name in scene.heard for name in scene.seen_names)], f"{len(scene.seen_names)} seen"


def where_loudest(scene: Scene) -> Iterator[Case]:
    sound = scene.only_loud()
    if sound and sound.name in _kinds(scene) and _all_differ(scene) and len(scene.sounds) > 1:
        yield ("loudest",), scene.positions(sound.name)[0], _filled(scene)


def _all_differ(scene: Scene) -> bool:
    return len(scene.seen_names) > 1 and len(_kinds(scene)) == len(scene.seen_names)


def _filled(scene: Scene) -> str:
    return "".join("x" if name else "." for name in scene.seen)


def _first_and_last(scene: Scene, names: set[str]) -> Iterator[tuple[str, Sound]]:
    for ordinal, sound in (("first", scene.only_first(names)), ("last", scene.only_last(names))):
        if sound is not None:
            yield ordinal, sound


def louder_side(scene: Scene) -> Iterator[Case]:
    for sides, first, second in _both_sides(scene):
        yield sides, _yes(first.loud and not second.loud)


def _both_sides(scene: Scene) -> Iterator[tuple[tuple[str, str], Sound, Sound]]:
    left, right = scene.seen[0], scene.seen[-1]
    if left in scene.heard and right in scene.heard and left != right:
        for sides in SIDES:
            names = [left if side == "left" else right for side in sides]
            yield sides, scene.heard[names[0]], scene.heard[names[1]]


def where_sounding(scene: Scene) -> Iterator[Case]:
    if _all_differ(scene):
        for ordinal, sound in _first_and_last(scene, _kinds(scene)):
            yield (ordinal,), scene.positions(sound.name)[0], _filled(scene)


def comes_in(scene: Scene) -> Iterator[Case]:
    if len(scene.sounds) > 1 and len(_kinds(scene)) > 1:
        among_all = dict(_first_and_last(scene, set(NAMES)))
        for ordinal, sound in _first_and_last(scene, _kinds(scene)):
            yield (ordinal,), sound.name, "as heard" if among_all.get(ordinal) == sound else "hidden comes before"


TEMPLATES = (
    Template("Audio/Counting", "How many instruments are heard?", heard_count),
    Template("Audio/Counting", "Is there a {0} sound?", heard_one),
    Template("Audio/Comparative", "Is the {0} louder than the {1}?", louder),
    Template("Visual/Counting", "How many types of instruments appeared?", seen_types),
    Template("Visual/Counting", "Is there a {0} in the video?", seen_one),
    Template("Visual/Location", "What is the {0} instrument?", outermost),
    Template("Audio-Visual/Existential", "Is there a voiceover?", voiceover),
    Template("Audio-Visual/Counting", "How many instruments are sounding in the video?", sounding_count),
    Template("Audio-Visual/Location", "Where is the {0} instrument?", where_loudest),
    Template("Audio-Visual/Comparative", "Is the {0} instrument louder than the {1} one?", louder_side),
    Template("Audio-Visual/Temporal", "Where is the {0} sounding instrument?", where_sounding),
    Template("Audio-Visual/Temporal", "What is the {0} instrument that comes in?", comes_in),
)
TYPES = tuple(dict.fromkeys(template.type for template in TEMPLATES))
