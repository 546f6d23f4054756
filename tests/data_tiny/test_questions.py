"""The questions: MUSIC-AVQA's wording and answers, balance, and the need for both modalities."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moka.data.tiny.captions import LOUD_SIGN, SOFT_SIGN, describe_audio, describe_frame
from moka.data.tiny.instruments import NAMES, POSITIONS
from moka.data.tiny.scenes import BAR_SECONDS, Scene, Sound
from moka.data.tiny.settings import MICRO
from moka.data.tiny.splits import draw_splits
from moka.data.tiny.templates import TEMPLATES, TYPES

from .oracle import Item, nothing, oracle_accuracy, picture, sound

SETTINGS = replace(MICRO, train_scenes=1500, val_scenes=60, test_scenes=60)
AUDIO_VISUAL = [kind for kind in TYPES if kind.startswith("Audio-Visual")]


@pytest.fixture(scope="module")
def splits():
    return draw_splits(SETTINGS)


@pytest.fixture(scope="module")
def items(splits) -> list[Item]:
    items = [(clip.scene, asked) for clip in splits["train"] for asked in clip.questions]
    order = np.random.default_rng(0).permutation(len(items))
    return [items[index] for index in order]


def scene_from_words(frame: str, audio: str) -> Scene:
    """Reads a scene back from its description: an independent way from the facts to the answers."""
    words = frame.split()
    seen = tuple(words[words.index(position) + 1] if position in words else None for position in POSITIONS)
    bars = [part.split() for part in audio.rstrip(".").split("; ")]
    sounds = []
    for name in NAMES:
        playing = [bar for bar, heard in enumerate(bars) if {LOUD_SIGN + name, SOFT_SIGN + name} & set(heard)]
        if playing:
            start, end = playing[0] * BAR_SECONDS, (playing[-1] + 1) * BAR_SECONDS
            sounds.append(Sound(name, start, end, loud=LOUD_SIGN + name in bars[playing[0]]))
    return Scene(seen, words[-1], tuple(sounds))


def test_the_descriptions_of_picture_and_sound_together_determine_every_answer(items: list[Item]) -> None:
    for scene, asked in items[:3000]:
        told = scene_from_words(describe_frame(scene), describe_audio(scene))
        assert told == scene
        assert {case[1] for case in asked.template.cases(told) if case[0] == asked.slots} == {asked.answer}


@pytest.mark.parametrize(("facts", "most"), [(nothing, 0.55), (picture, 0.6), (sound, 0.65)])
def test_one_modality_cannot_answer_audio_visual_questions(items: list[Item], facts, most: float) -> None:
    accuracy = oracle_accuracy(items, facts)
    assert max(accuracy[kind] for kind in AUDIO_VISUAL) < most
    assert np.mean([accuracy[kind] for kind in AUDIO_VISUAL]) < most - 0.1


def test_the_oracle_of_the_right_modality_answers_what_that_modality_shows(items: list[Item]) -> None:
    assert oracle_accuracy(items, picture)["Visual/Counting"] > 0.97
    assert oracle_accuracy(items, sound)["Audio/Comparative"] > 0.8  # its table is sparse


def test_answers_are_balanced(items: list[Item]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, asked in items:
        answers[asked.type][asked.answer] += 1
    assert set(answers) == set(TYPES)
    for kind, counts in answers.items():
        most, total = counts.most_common(1)[0][1], counts.total()
        assert total > 350
        assert most / total < (0.62 if set(counts) == {"yes", "no"} else 0.42), kind


def test_no_scene_is_in_two_splits(splits) -> None:
    scenes = [clip.scene for clips in splits.values() for clip in clips]
    assert len(set(scenes)) == len(scenes)
    assert len({clip.file for clips in splits.values() for clip in clips}) == len(scenes)


def test_types_and_answers_are_music_avqas(shared: Path) -> None:
    rows = json.loads((shared / "data" / "music_avqa" / "avqa-test.json").read_text())
    vocabulary = {row["anser"] for row in rows}
    assert set(NAMES) | {*POSITIONS, "yes", "no", "zero", "one", "two", "three"} <= vocabulary
    assert set(TYPES) == {"/".join(json.loads(row["type"])) for row in rows}


SCENE = Scene(
    seen=("violin", "piano", "cello"),
    place="indoor",
    sounds=(
        Sound("violin", 0, 10, loud=False),
        Sound("cello", 4, 6, loud=True),
        Sound("drum", 2, 6, loud=False),
    ),
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many instruments are heard?", "three"),
        ("Is there a piano sound?", "no"),
        ("Is the cello louder than the drum?", "yes"),
        ("How many types of instruments appeared?", "three"),
        ("Is there a drum in the video?", "no"),
        ("What is the rightest instrument?", "cello"),
        ("Is there a voiceover?", "yes"),
        ("How many instruments are sounding in the video?", "two"),
        ("Where is the loudest instrument?", "right"),
        ("Is the left instrument louder than the right one?", "no"),
        ("Where is the last sounding instrument?", "right"),
        ("What is the last instrument that comes in?", "cello"),
    ],
)
def test_answers_worked_out_by_hand(question: str, answer: str) -> None:
    asked = {t.wording.format(*case[0]): case[1] for t in TEMPLATES for case in t.cases(SCENE)}
    assert asked[question] == answer


def test_questions_without_one_answer_are_not_asked() -> None:
    tie = replace(SCENE, sounds=tuple(replace(s, start=0, end=4, loud=True) for s in SCENE.sounds))
    asked = {t.wording.format(*case[0]) for t in TEMPLATES for case in t.cases(tie)}
    assert "Is there a voiceover?" in asked
    assert "Where is the loudest instrument?" not in asked
    assert "Where is the first sounding instrument?" not in asked
    # Three are heard and two seen: the numbers alone say that one is hidden.
    fewer = {t.wording for t in TEMPLATES for _ in t.cases(replace(SCENE, seen=("violin", None, "cello")))}
    assert "Is there a voiceover?" not in fewer
