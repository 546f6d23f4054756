"""The language models' training text: true, and without clues that questions about media do not have."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from moka.data.tiny.captions import HEARD_QUESTION, SEEN_QUESTION
from moka.data.tiny.instruments import NAMES
from moka.data.tiny.language import IGNORED, SceneText, new_language_model, train_language_model
from moka.data.tiny.scenes import Scene
from moka.data.tiny.settings import MICRO
from moka.data.tiny.templates import TEMPLATES
from moka.data.tiny.tokenizer import build_tokenizer

SETTINGS = replace(MICRO, questions_per_scene=4)
Pairs = list[tuple[str, str]]


class Recorded(SceneText):
    """Keeps what each row was made of."""

    def encode(self, scene, told, pairs, facts=()):
        self.last = (scene, told, list(pairs), [(question, list(entries)) for question, entries in facts])
        return super().encode(*self.last)


@pytest.fixture(scope="module")
def text() -> Recorded:
    return Recorded(build_tokenizer(chat=False), SETTINGS, "test")


@pytest.fixture(scope="module")
def rows(text: Recorded) -> list[tuple]:
    return [(*text.row(index), *text.last) for index in range(400)]


def answers(scene: Scene) -> dict[str, str]:
    return {
        template.wording.format(*case[0]): f"<answer> {case[1]} </answer>"
        for template in TEMPLATES
        for case in template.cases(scene)
    }


def test_every_reply_is_true_of_the_scene(rows: list[tuple]) -> None:
    for _, _, scene, _, pairs, _ in rows:
        expected = answers(scene)
        for question, reply in pairs:
            assert question.startswith("Please describe") or expected[question] == reply


def test_facts_are_true_and_only_of_what_is_told(rows: list[tuple]) -> None:
    for _, _, scene, told, _, facts in rows:
        assert {question for question, _ in facts} == {
            {"video": SEEN_QUESTION, "audio": HEARD_QUESTION}[medium] for medium in told
        }
        for question, entries in facts:
            assert sorted(name for name, _ in entries) == sorted(NAMES)
            for name, fact in entries:
                present = name in (scene.seen if question == SEEN_QUESTION else scene.heard)
                assert fact.split()[0] == ("yes" if present else "no")
                if present and question == SEEN_QUESTION:
                    assert fact.split()[1] in scene.positions(name)
                elif present:
                    assert fact.split()[1] == ("loud" if scene.heard[name].loud else "soft")


def test_only_replies_and_facts_are_learned(text: Recorded, rows: list[tuple]) -> None:
    decode = text.tokenizer.decode
    for ids, labels, _, _, pairs, facts in rows:
        assert len(ids) == len(labels)
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
        expected = [word for _, reply in pairs for word in [*text._ids(reply), text.tokenizer.eos_token_id]]
        expected += [word for _, entries in facts for _, fact in entries for word in text._ids(fact)]
        assert [label for label in labels if label != IGNORED] == expected
        assert "<unk>" not in decode(ids)


def test_no_wording_and_no_name_has_a_place_of_its_own(rows: list[tuple]) -> None:
    """Otherwise the place alone tells what is asked, and a question that comes by itself is not understood."""
    first, first_name = Counter(), Counter()
    asked = Counter()
    for *_, told, pairs, facts in rows:
        if len(told) == 2:
            kinds = [question.split()[:2][0] + question.split()[-1] for question, _ in pairs]
            first[kinds[0]] += 1
            asked.update(kinds)
        first_name.update(entries[0][0] for _, entries in facts)
    for kind, count in asked.items():
        if count > 60:
            assert 0.1 < first[kind] / count < 0.5, kind
    assert set(first_name) == set(NAMES)
    assert max(first_name.values()) < 2 * min(first_name.values())


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_language_model_learns_to_look_words_up(family: str) -> None:
    settings = replace(SETTINGS, language_width=64, language_batch=16, language_steps=60)
    tokenizer = build_tokenizer(chat=family == "qwen2")
    torch.manual_seed(0)
    model = new_language_model(settings, family, tokenizer)
    text = SceneText(tokenizer, settings, "language")
    batch = next(SceneText(tokenizer, settings, "held out").batches())

    def loss() -> float:
        with torch.no_grad():
            logits, labels = model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).item()

    before = loss()
    train_language_model(model, text, settings, family)
    assert loss() < 0.25 * before
