"""Predictions and scripted models for the tests of evaluation."""

from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig

from moka.data import MediaError
from moka.data.questions import FEATURES
from moka.evaluation.predictions import Prediction


def prediction(text: str | None, answer: str | None, **values: Any) -> Prediction:
    """A line of predictions.jsonl; `parsed` is deliberately wrong, since scorers must not trust it."""
    row = {"question_id": "0", "type": "Audio/Counting", "question": "How many?", "parsed": "yes", "media_errors": []}
    return Prediction(**{**row, "answer": answer, "prediction": text, **values})  # type: ignore[typeddict-item]


def question_set(*rows: dict[str, Any]) -> Dataset:
    """Rows with the columns of every question set; ids are q0, q1, ... unless given."""
    empty = dict.fromkeys(FEATURES)
    filled = [
        {
            **empty,
            "question_id": f"q{i}",
            "question": f"question {i}",
            "answer": "yes",
            "type": "Audio/Counting",
            **row,
        }
        for i, row in enumerate(rows)
    ]
    return Dataset.from_list(filled, features=FEATURES)


class ScriptedTokenizer:
    """Token ids are characters' code points; 0 is padding and 1 ends a text."""

    pad_token_id = 0
    eos_token_id = 1

    def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        """Code points back to text."""
        first = 2 if skip_special_tokens else 0
        return ["".join(chr(token) for token in row if token >= first) for row in tokens.tolist()]


class ScriptedModel:
    """Answers each question with a given text, and remembers what it was asked and how."""

    device = torch.device("cpu")

    def __init__(self, answers: dict[str, str], die_after: int | None = None) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []
        self.configs: list[GenerationConfig] = []
        self.die_after = die_after
        self.generation_config = GenerationConfig(eos_token_id=[7], suppress_tokens=[9], repetition_penalty=5.0)

    def generate(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: GenerationConfig
    ) -> torch.Tensor:
        """The prompt followed by its answer, padded on the right, as transformers returns it."""
        questions = [
            "".join(map(chr, row[mask.bool()].tolist())) for row, mask in zip(input_ids, attention_mask, strict=True)
        ]
        if self.die_after is not None and len(self.asked) == self.die_after:
            raise KeyboardInterrupt
        self.asked.append(questions)
        self.configs.append(generation_config)
        answers = [[*map(ord, self.answers[question]), 1] for question in questions]
        longest = max(map(len, answers))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in answers])
        return torch.cat([input_ids, padded], dim=1)


class ScriptedCollator:
    """Stands for `QuestionCollator`: the prompt is the question, one code point a token, padded on the left."""

    modalities = None
    tokenizer = ScriptedTokenizer()
    processor = SimpleNamespace(image_token="<i>", video_token="<v>", audio_token="<a>")
    template = SimpleNamespace(render=lambda record, *_: SimpleNamespace(text=record["question"]))

    def __init__(self, broken: dict[str, str] | None = None) -> None:
        self.broken = broken or {}
        self.store = self

    def load(self, column: str, path: str) -> torch.Tensor:
        """A medium, as `MediaStore.load` gives it; those in `broken` fail."""
        if path in self.broken:
            raise MediaError(path, self.broken[path])
        return torch.zeros(1)

    def __call__(self, records: list[Any]) -> dict[str, torch.Tensor]:
        """The batch."""
        rows = [list(map(ord, record["question"])) for record in records]
        longest = max(map(len, rows))
        return {
            "input_ids": torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        }
