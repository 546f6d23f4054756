"""Records -> a batch: prompts, targets, masks and media, padded on the left."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from moka.data.prompts import PromptTemplate, RenderedPrompt, refuse_special_tokens, withhold
from moka.data.store import TENSOR_NAMES, MediaStore

IGNORED = -100
# transformers' own numbers for `mm_token_type_ids`; 0 is text.
TOKEN_TYPES = {"image": 1, "video": 2, "audio": 3}
_COUNT_NAMES = {"image": "num_images", "video": "num_frames", "audio": "num_windows"}


class QuestionCollator:
    """Makes a batch of question records, for training (with targets and labels) or for generation (prompts only).

    Prompt and target are tokenised apart, so that the prompt's tokens are the same in both; the loss is on the target
    and its end-of-sequence token. A text is never truncated.

    Args:
        processor: Gives the placeholder tokens, their ids, `expand` and the `tokenizer`.
        store: Gives the media's tensors.
        template: The wording.
        train: Whether to append targets and return labels.
        modalities: Those to use, of text, visual and audio; the others' media and wording are left out. None for all.
        max_length: Longest sequence allowed, in tokens; None for any.

    Raises:
        ValueError: The tokenizer is not a fast one, or lacks what padding or training need.
    """

    def __init__(
        self,
        processor: Any,
        store: MediaStore,
        template: PromptTemplate,
        *,
        train: bool,
        modalities: Collection[str] | None = None,
        max_length: int | None = None,
    ) -> None:
        tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} gives no character offsets; load a fast tokenizer")
        if train and tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token, which ends the target; set one")
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if padding is None:
            raise ValueError("the tokenizer has neither pad_token nor eos_token; set one")
        self.processor = processor
        self.tokenizer = tokenizer
        self.store = store
        self.template = template
        self.train = train
        self.modalities = modalities
        self.max_length = max_length
        self._padding_id: int = padding
        self._type_of_id = {getattr(processor, f"{name}_token_id"): kind for name, kind in TOKEN_TYPES.items()}

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate records.

        Args:
            records: Rows of `load_questions`.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` (B, L) int64, `question_mask` (B, L) bool, in training
            `labels` (B, L) with -100 on prompt and padding, and the batch's media, record after record:
            `pixel_values` (images, 3, h, w), `pixel_values_videos` (frames, 3, h, w), `input_features` (windows,
            frames, mel bins); those that no record has are absent.

        Raises:
            MediaError: A file cannot be used.
            ValueError: A text spells a special token, there is nothing to train on, or a sequence is too long.
        """
        rows, media = zip(*(self._row(withhold(record, self.modalities)) for record in records), strict=True)
        batch = _pad_left(rows, self._padding_id)
        for name in TENSOR_NAMES.values():
            tensors = [tensors[name] for tensors in media if name in tensors]
            if tensors:
                batch[name] = torch.cat(tensors)
        return batch

    def _row(self, record: Mapping[str, Any]) -> tuple[dict[str, list[int]], dict[str, torch.Tensor]]:
        tensors = self.store.get(record)
        counts = {column: len(tensors[name]) if name in tensors else 0 for column, name in TENSOR_NAMES.items()}
        prompt = self._expand(self.template.render(record, self.processor), counts)
        row = self._tokenise(prompt)
        self._check_placeholders(row["input_ids"], counts, record)
        if not any(row["question_mask"]):
            raise ValueError(f"question_id {record['question_id']!r}: {record['question']!r} has no tokens")
        if self.train:
            target = self._target_ids(record)
            row["labels"] = [IGNORED] * len(row["input_ids"]) + target
            row["input_ids"] += target
            row["question_mask"] += [0] * len(target)
        row["mm_token_type_ids"] = [self._type_of_id.get(token, 0) for token in row["input_ids"]]
        row["attention_mask"] = [1] * len(row["input_ids"])
        length = len(row["input_ids"])
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"question_id {record['question_id']!r} has {length} tokens, max_length is {self.max_length}; "
                "raise max_length, or take fewer frames or windows"
            )
        return row, tensors

    def _expand(self, prompt: RenderedPrompt, counts: Mapping[str, int]) -> RenderedPrompt:
        """Repeat each placeholder as often as its medium has tokens; the question moves along."""
        start, end = prompt.question_span
        before = self.processor.expand(
            prompt.text[:start], **{_COUNT_NAMES[column]: count for column, count in counts.items()}
        )
        moved = len(before) - start
        return RenderedPrompt(before + prompt.text[start:], (start + moved, end + moved))

    def _tokenise(self, prompt: RenderedPrompt) -> dict[str, list[int]]:
        # A chat template writes its special tokens itself.
        encoding = self.tokenizer(
            prompt.text, add_special_tokens=self.tokenizer.chat_template is None, return_offsets_mapping=True
        )
        start, end = prompt.question_span
        inside = [int(first < end and last > start) for first, last in encoding["offset_mapping"]]
        return {"input_ids": list(encoding["input_ids"]), "question_mask": inside}

    def _check_placeholders(self, ids: list[int], counts: Mapping[str, int], record: Mapping[str, Any]) -> None:
        per_item = {"image": "visual_tokens", "video": "visual_tokens", "audio": "audio_tokens"}
        for column, count in counts.items():
            # A model without the tower has no tokens per item, and no items.
            expected = count * getattr(self.processor, per_item[column]) if count else 0
            found = ids.count(getattr(self.processor, f"{column}_token_id"))
            if found != expected:
                raise ValueError(
                    f"question_id {record['question_id']!r}: the prompt has {found} {column} tokens, its media need "
                    f"{expected}; is {getattr(self.processor, f'{column}_token')!r} part of the prompt's wording?"
                )

    def _target_ids(self, record: Mapping[str, Any]) -> list[int]:
        text = self.template.target_text(record)
        refuse_special_tokens(record, "target", text, self.processor)
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]


def _pad_left(rows: Sequence[Mapping[str, list[int]]], padding_id: int) -> dict[str, torch.Tensor]:
    length = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": padding_id, "labels": IGNORED}
    batch = {
        key: torch.tensor([[fill.get(key, 0)] * (length - len(row[key])) + row[key] for row in rows])
        for key in rows[0]
    }
    batch["question_mask"] = batch["question_mask"].bool()
    return batch
