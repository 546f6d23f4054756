"""Prompts and training targets: what the model reads for a question, and what it should write."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from jinja2.exceptions import TemplateError

MODALITIES = ("text", "visual", "audio")
_MODALITY_OF_COLUMN = {"image": "visual", "video": "visual", "audio": "audio"}
# Stands for the user's turn while a chat template is measured: a code point that Unicode keeps out of all text.
_USER_TURN = "\ufdd0"


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as text, with one placeholder token per medium.

    Args:
        text: The prompt, up to where the answer starts.
        question_span: (start, end) of the question part, in characters of `text`.
    """

    text: str
    question_span: tuple[int, int]


@dataclass(frozen=True)
class PromptTemplate:
    """The wording around a question's media, text and answer; the defaults are those MokA was trained with.

    The parts `image`, `video`, `audio` are left out where a record has no such medium. `system` is the system turn of
    chat templates, "" for none; a tokenizer without a chat template gets the media, the question and a line end. Each
    part but `system` holds its own name in braces exactly once; braces are not special otherwise.

    Raises:
        ValueError: A part without its own name in braces.
    """

    system: str = "You are a helpful assistant."
    image: str = "This is an image:\n{image}\n"
    video: str = "This is a video:\n{video}\n"
    audio: str = "This is an audio:\n{audio}\n"
    question: str = "Please answer this question: {question}"
    answer: str = "<answer> {answer} </answer>"

    def __post_init__(self) -> None:
        for field in fields(self):
            slot = f"{{{field.name}}}"
            if field.name != "system" and getattr(self, field.name).count(slot) != 1:
                raise ValueError(f"prompt part {field.name} is {getattr(self, field.name)!r}; write {slot} in it once")

    def render(
        self, record: Mapping[str, Any], processor: Any, modalities: Collection[str] | None = None
    ) -> RenderedPrompt:
        """The prompt of a record: media parts, then the question, in the tokenizer's chat template when it has one.

        Args:
            record: A row of `load_questions`.
            processor: Gives `image_token`, `video_token`, `audio_token` and the `tokenizer`.
            modalities: Those to use, of text, visual and audio; the other media are left out. None for all.

        Returns:
            The text and the span of the whole `question` part in it.

        Raises:
            ValueError: The question holds a special token's text, or the chat template does not take the prompt.
        """
        record = withhold(record, modalities)
        refuse_special_tokens(record, "question", record["question"], processor)
        media = "".join(
            getattr(self, column).replace(f"{{{column}}}", getattr(processor, f"{column}_token"))
            for column in _MODALITY_OF_COLUMN
            if record[column] is not None
        )
        # Many chat templates strip the user's turn: stripped here, the prompt is the same with all of them.
        media = media.lstrip()
        question = self.question.replace("{question}", record["question"]).rstrip()
        question = question if media else question.lstrip()
        before, after = self._around(media + question, processor.tokenizer, record)
        start = len(before) + len(media)
        return RenderedPrompt(before + media + question + after, (start, start + len(question)))

    def target_text(self, record: Mapping[str, Any]) -> str:
        """What the model should write: the record's target, or else its answer in the answer format.

        Raises:
            ValueError: The record has neither.
        """
        if record["target"] is not None:
            return record["target"]
        if record["answer"] is None:
            raise ValueError(f"question_id {record['question_id']!r} has neither a target nor an answer to train on")
        return self.answer.replace("{answer}", record["answer"])

    def _around(self, user: str, tokenizer: Any, record: Mapping[str, Any]) -> tuple[str, str]:
        """What the chat template puts before and after the user's turn."""
        if tokenizer.chat_template is None:
            return "", "\n"
        before, found, after = self._chat(_USER_TURN, tokenizer).partition(_USER_TURN)
        if not found or self._chat(user, tokenizer) != before + user + after:
            raise ValueError(
                f"question_id {record['question_id']!r}: the tokenizer's chat template changes the user's turn "
                f"{user!r}, so that the question cannot be told from the rest; use a template that copies the turn"
            )
        return before, after

    def _chat(self, user: str, tokenizer: Any) -> str:
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns.append({"role": "user", "content": user})
        try:
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ValueError(
                f"the tokenizer's chat template refuses the prompt ({error}); "
                "if it knows no system turn, set the prompt's system to ''"
            ) from error


def withhold(record: Mapping[str, Any], modalities: Collection[str] | None) -> dict[str, Any]:
    """The record without the media of the modalities that are not named.

    Args:
        record: A row of `load_questions`.
        modalities: Of text, visual and audio; None for all.

    Raises:
        ValueError: An unknown name, or text is missing: a question cannot be withheld.
    """
    if modalities is None:
        return dict(record)
    unknown = sorted(set(modalities) - set(MODALITIES))
    if unknown or "text" not in modalities:
        raise ValueError(f"modalities are {list(modalities)}, they must be text and any of {list(MODALITIES[1:])}")
    kept = {column: modality in modalities for column, modality in _MODALITY_OF_COLUMN.items()}
    return {key: value if kept.get(key, True) else None for key, value in record.items()}


def refuse_special_tokens(record: Mapping[str, Any], key: str, text: str, processor: Any) -> None:
    """Raise where a record's text spells a special token: tokenised, it would forge media or a turn of the chat.

    Args:
        record: A row of `load_questions`, for the message.
        key: What the text is, for the message.
        text: The text.
        processor: Gives the placeholder tokens and the `tokenizer`.

    Raises:
        ValueError: The text holds a special token of the tokenizer, or a placeholder.
    """
    tokens = {token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    tokens.update(getattr(processor, f"{column}_token") for column in _MODALITY_OF_COLUMN)
    found = sorted(token for token in tokens if token in text)
    if found:
        raise ValueError(
            f"question_id {record['question_id']!r}: the {key} holds {found}, which the tokenizer reads as special "
            f"tokens; change the {key}'s text: {text!r}"
        )
