"""How well questions can be answered from the question, the picture or the sound alone: lookup-table oracles."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable

from moka.data.tiny.instruments import NAMES
from moka.data.tiny.questions import Asked
from moka.data.tiny.scenes import Scene

Item = tuple[Scene, Asked]
# All facts, those about the instruments in the question, and the role of every instrument.
Facts = Callable[[Scene, Asked], tuple[Hashable, Hashable, dict[str, str]]]


def _roles(asked: Asked, order: Iterable[str]) -> dict[str, str]:
    """Names -> what they are to the question ("slot0") or else by order of appearance ("other0"): the world treats
    all instruments alike, so names as such carry nothing and only make the tables sparse."""
    roles = {name: f"slot{index}" for index, name in enumerate(asked.slots) if name in NAMES}
    for name in order:
        roles.setdefault(name, f"other{len(roles)}")
    return roles


def nothing(scene: Scene, asked: Asked) -> tuple[Hashable, Hashable, dict[str, str]]:
    return (), (), _roles(asked, ())


def picture(scene: Scene, asked: Asked) -> tuple[Hashable, Hashable, dict[str, str]]:
    roles = _roles(asked, scene.seen_names)
    return (
        tuple(roles[name] if name else "" for name in scene.seen),
        tuple((roles[name], len(scene.positions(name))) for name in asked.slots if name in NAMES and name in roles),
        roles,
    )


def sound(scene: Scene, asked: Asked) -> tuple[Hashable, Hashable, dict[str, str]]:
    ranked = sorted(scene.sounds, key=lambda s: (s.start, s.end, s.loud))
    roles = _roles(asked, [s.name for s in ranked])
    starts = sorted({s.start for s in ranked})
    everything = tuple((roles[s.name], starts.index(s.start), s.length == 10, s.loud) for s in ranked)
    named = sorted((s for s in ranked if s.name in asked.slots), key=lambda s: roles[s.name])
    lengths = sorted({s.length for s in named})
    about = tuple((roles[s.name], s.loud, lengths.index(s.length)) for s in named)
    return everything, about, roles


def _keys(facts: Facts, scene: Scene, asked: Asked) -> tuple[list[Hashable], str]:
    """Table keys from all facts to those about the instruments in the question to none, and the answer's role."""
    everything, about, roles = facts(scene, asked)
    question = (asked.template.wording, tuple("" if slot in NAMES else slot for slot in asked.slots))
    keys = [(question, "all", everything, about), (question, "about", about), (question, "none")]
    return list(keys), roles.get(asked.answer, asked.answer)


def oracle_accuracy(items: list[Item], facts: Facts) -> dict[str, float]:
    """Held-out accuracy by question type of the best answer to each (question, facts).

    The tables are filled with the even items and scored on the odd ones; where all facts together were met fewer than
    three times, those about the instruments in the question decide if it names any, and else fewer facts.
    """
    table: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for scene, asked in items[::2]:
        keys, answer = _keys(facts, scene, asked)
        for key in keys:
            table[key][answer] += 1
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for scene, asked in items[1::2]:
        keys, answer = _keys(facts, scene, asked)
        known = next((table[key] for key in keys if table[key].total() >= 3), Counter({"": 1}))
        right[asked.type] += known.most_common(1)[0][0] == answer
        total[asked.type] += 1
    return {kind: right[kind] / total[kind] for kind in total}
