"""Question sets over scenes, balanced by answer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .instruments import NAMES
from .scenes import Scene, random_scene
from .templates import TEMPLATES, TYPES, Case, Template


@dataclass(frozen=True)
class Asked:
    """One question about one scene."""

    template: Template
    slots: tuple[str, ...]
    answer: str

    @property
    def type(self) -> str:
        return self.template.type

    @property
    def wording(self) -> str:
        return self.template.wording.format(*self.slots)


Key = tuple[str, str]
T = TypeVar("T")
MOST_DRAWS = 300


class Balance:
    """Keeps the templates of every type, and within each template its answers, equally frequent.

    Args:
        slack: a kind of case is asked at most this often more than the template's rarest; None: as often as it comes.
    """

    def __init__(self, slack: int | None = None) -> None:
        self.slack = slack
        self.counts: dict[Template, Counter[Key]] = {template: Counter() for template in TEMPLATES}

    def draw_scene(self, templates: list[Template], rng: np.random.Generator) -> Scene:
        """Draw scenes until one can be asked what is missed most."""
        template = _least(templates, lambda entry: self.counts[entry].total(), rng)
        counts = self.counts[template]
        wanted = _least(list(counts), counts.__getitem__, rng) if counts else None
        for _ in range(MOST_DRAWS):
            scene = random_scene(rng)
            keys = {_key(case) for case in template.cases(scene)}
            if wanted in keys or (wanted is None and keys):
                break
        return scene

    def ask(self, scene: Scene, templates: list[Template], number: int, rng: np.random.Generator) -> list[Asked]:
        """Up to `number` questions about a scene, of the kinds asked least."""
        cases = {template: list(template.cases(scene)) for template in templates}
        for template, met in cases.items():
            for case in met:
                self.counts[template][_key(case)] += 0
        asked = []
        for _ in range(number):
            open_cases = {template: kept for template in templates if (kept := self._open(template, cases[template]))}
            if not open_cases:
                break
            template = _least(list(open_cases), lambda entry: self.counts[entry].total(), rng)
            counts = self.counts[template]
            key = _least(list({_key(case): None for case in open_cases[template]}), counts.__getitem__, rng)
            counts[key] += 1
            options = [case for case in open_cases[template] if _key(case) == key]
            chosen = options[rng.integers(len(options))]
            cases[template].remove(chosen)
            asked.append(Asked(template, chosen[0], chosen[1]))
        return asked

    def _open(self, template: Template, cases: list[Case]) -> list[Case]:
        if self.slack is None or not cases:
            return cases
        counts = self.counts[template]
        most = min(counts.values()) + self.slack
        return [case for case in cases if counts[_key(case)] < most]


def _key(case: Case) -> Key:
    # Instruments are interchangeable: which one is the answer needs no balancing.
    return case[2] if len(case) > 2 else "", "name" if case[1] in NAMES else case[1]


def _least(options: list[T], load: Callable[[T], int], rng: np.random.Generator) -> T:
    loads = [load(option) for option in options]
    best = [option for option, value in zip(options, loads, strict=True) if value == min(loads)]
    return best[rng.integers(len(best))]


BY_TYPE = {kind: [template for template in TEMPLATES if template.type == kind] for kind in TYPES}


def ask_all_types(scene: Scene, balance: Balance, rng: np.random.Generator) -> list[Asked]:
    """At most one question of each of the nine types."""
    return [asked for templates in BY_TYPE.values() for asked in balance.ask(scene, templates, 1, rng)]
