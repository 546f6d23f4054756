"""Answers inside free text, for every benchmark whose models reason first and answer in tags."""

import re


def normalise(answer: str) -> str:
    """Returns an answer as benchmarks compare it: lower case, without surrounding white space."""
    return answer.strip().lower()


def tagged_answer(text: str, tag: str = "answer") -> str | None:
    """Returns the normalised content of the only `<tag> ... </tag>` in a text, or None when there is none or several.

    Several answers are none even when they agree, so that listing candidates never pays.

    Args:
        text: What a model wrote.
        tag: Name of the tag.
    """
    found = re.findall(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, flags=re.DOTALL)
    return normalise(found[0]) if len(found) == 1 else None
