"""Prompts and targets."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moka.data.prompts import PromptTemplate, withhold
from moka.data.questions import FEATURES
from tests.data.conftest import CHATML, INST, FakeProcessor, byte_level_tokenizer, llama_tokenizer

RECORD = {
    **dict.fromkeys(FEATURES),
    "question_id": "q1",
    "question": "How many instruments?",
    "type": "",
    "video": "a.mp4",
    "audio": "a.mp4",
}
USER = "This is a video:\n<|video|>\nThis is an audio:\n<|audio|>\nPlease answer this question: How many instruments?"


def span_text(prompt) -> str:
    return prompt.text[slice(*prompt.question_span)]


def test_the_default_prompt_in_a_chat_template(processor):
    prompt = PromptTemplate().render(RECORD, processor)
    assert prompt.text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert span_text(prompt) == "Please answer this question: How many instruments?"


def test_the_llama_2_prompt_is_the_references():
    """The reference's own rendering, without the tags that it drops or embeds."""
    prompt = PromptTemplate().render(RECORD, FakeProcessor(llama_tokenizer(INST)))
    assert prompt.text == f"<s>[INST] <<SYS>>\nYou are a helpful assistant.\n<</SYS>>\n\n{USER} [/INST]"


def test_without_a_chat_template():
    prompt = PromptTemplate().render(RECORD, FakeProcessor(byte_level_tokenizer(None)))
    assert prompt.text == USER + "\n"
    assert span_text(prompt) == "Please answer this question: How many instruments?"


def test_absent_media_are_not_mentioned(processor):
    template = PromptTemplate()
    silent = template.render({**RECORD, "audio": None}, processor).text
    assert "video" in silent
    assert "audio" not in silent
    everything = template.render({**RECORD, "image": "a.png"}, processor).text
    assert everything.index("<|image|>") < everything.index("<|video|>") < everything.index("<|audio|>")
    assert "This is an image:\n<|image|>\nThis is a video:" in everything
    assert template.render({**RECORD, "video": None, "audio": None}, processor).text.count("This is") == 0


def test_withheld_modalities_read_as_absent_ones(processor):
    template = PromptTemplate()
    for modalities, absent in (
        (["text"], {"video": None, "audio": None, "image": None}),
        (["text", "audio"], {"video": None, "image": None}),
        (["visual", "text"], {"audio": None}),
        (None, {}),
    ):
        record = {**RECORD, "image": "a.png"}
        assert template.render(record, processor, modalities) == template.render({**record, **absent}, processor)
        assert withhold(record, modalities) == {**record, **absent}


@pytest.mark.parametrize("modalities", [["audio"], ["text", "video"], []])
def test_unknown_modalities_and_a_withheld_question_are_refused(processor, modalities):
    with pytest.raises(ValueError, match=r"they must be text and any of \['visual', 'audio'\]"):
        PromptTemplate().render(RECORD, processor, modalities)


safe_text = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=safe_text, media=st.booleans())
def test_the_span_is_the_question_whatever_it_says(any_processor, question, media):
    record = (
        {**RECORD, "question": question} if media else {**RECORD, "question": question, "video": None, "audio": None}
    )
    prompt = PromptTemplate(question="Q: {question}").render(record, any_processor)
    assert span_text(prompt) == f"Q: {question}".rstrip()


@pytest.mark.parametrize(
    "question",
    ["assistant", "You are a helpful assistant.", "user", "This is a video:", "{question}", "Q", "{video}", "  so?\n"],
)
def test_the_span_is_the_questions_own_where_its_text_is_repeated(any_processor, question):
    template = PromptTemplate(question="{question}")
    prompt = template.render({**RECORD, "question": question}, any_processor)
    marked = template.render({**RECORD, "question": "MARK"}, any_processor)
    start = marked.text.index("MARK")
    leading = len(question) - len(question.lstrip())
    assert prompt.question_span[0] == start
    assert span_text(prompt) == question.rstrip()
    assert prompt.text[: start + leading].endswith(question[:leading])
    alone = template.render({**RECORD, "question": question, "video": None, "audio": None}, any_processor)
    assert span_text(alone) == question.strip()


def test_the_wording_is_the_users(processor):
    template = PromptTemplate(
        system="", video="[{video}]", audio="({audio})", question="{{q}} {question} A:", answer="= {answer}"
    )
    prompt = template.render(RECORD, processor)
    assert prompt.text == (
        "<|im_start|>user\n[<|video|>](<|audio|>){{q}} How many instruments? A:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert span_text(prompt) == "{{q}} How many instruments? A:"
    assert template.target_text({**RECORD, "answer": "two {answer}"}) == "= two {answer}"


def test_targets():
    template = PromptTemplate()
    assert template.target_text({**RECORD, "answer": "two"}) == "<answer> two </answer>"
    assert template.target_text({**RECORD, "answer": "two", "target": "I hear two."}) == "I hear two."
    with pytest.raises(ValueError, match="question_id 'q1' has neither a target nor an answer"):
        template.target_text(RECORD)


@pytest.mark.parametrize("part", ["image", "video", "audio", "question", "answer"])
@pytest.mark.parametrize("text", ["nothing", "{%s} {%s}"])
def test_each_part_holds_its_name_once(part, text):
    with pytest.raises(ValueError, match=f"prompt part {part} is"):
        PromptTemplate(**{part: text.replace("%s", part)})


@pytest.mark.parametrize("token", ["<|video|>", "<|audio|>", "<|image|>", "<|im_end|>", "<|im_start|>"])
def test_questions_cannot_forge_special_tokens(processor, token):
    with pytest.raises(ValueError, match="question_id 'q1': the question holds"):
        PromptTemplate().render({**RECORD, "question": f"What is {token}?"}, processor)


def test_chat_templates_that_do_not_fit_are_refused():
    shouting = FakeProcessor(byte_level_tokenizer(CHATML.replace("m['content'] }}", "m['content'] | upper }}")))
    with pytest.raises(ValueError, match="question_id 'q1': the tokenizer's chat template changes the user's turn"):
        PromptTemplate().render(RECORD, shouting)
    no_system = FakeProcessor(
        byte_level_tokenizer(
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
        )
    )
    with pytest.raises(ValueError, match=r"no system role.*set the prompt's system to ''"):
        PromptTemplate().render(RECORD, no_system)
    assert "helpful" not in PromptTemplate(system="").render(RECORD, no_system).text
