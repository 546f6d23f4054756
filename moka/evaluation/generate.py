"""Batched greedy answers to a question set."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig

from moka.data.prompts import PromptTemplate

Record = Mapping[str, Any]


def greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    """Returns a configuration for plain greedy decoding, whatever the backbone's own generation_config says.

    Values left unset would be taken from the backbone, and chat models set sampling and repetition penalties there; a
    penalty counts padding as a repetition, which makes an answer depend on its batch.

    Args:
        model: The model; its end-of-text and suppressed tokens are kept.
        tokenizer: Its tokenizer, whose end of text also ends an answer: training targets end with it.
        max_new_tokens: Longest answer.
    """
    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        min_length=0,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        suppress_tokens=own.suppress_tokens,
        eos_token_id=sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None}),
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )


def order_by_length(
    records: Iterable[Record], template: PromptTemplate, processor: Any, modalities: Collection[str] | None = None
) -> list[int]:
    """Returns the records' rows, sorted so that neighbours are about equally long.

    The longest comes first, which shows at once what fits. Rendering every prompt also
    finds a question that cannot be asked before hours are spent on the others.

    Args:
        records: Question records.
        template: Wording of the prompts.
        processor: The model's processor.
        modalities: Those that the model is given; None for all.
    """

    def length(record: Record) -> tuple[int, int]:
        text = template.render(record, processor, modalities).text
        placeholders = (processor.image_token, processor.video_token, processor.audio_token)
        return sum(text.count(token) for token in placeholders), len(text)

    lengths = [length(record) for record in records]
    return sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)


def generate_answers(
    model: Any,
    tokenizer: Any,
    collate: Callable[[list[Record]], Mapping[str, torch.Tensor]],
    records: Sequence[Record] | Dataset,
    *,
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[list[tuple[Record, str]]]:
    """Yields batches of (record, what the model wrote), decoded greedily.

    Args:
        model: A model in eval mode, adapted or not.
        tokenizer: Its tokenizer.
        collate: Records -> a left-padded batch of model inputs with (B, L) `input_ids` and `attention_mask`.
        records: Question records.
        batch_size: Questions answered at a time; it does not change the answers.
        max_new_tokens: Longest answer.

    Raises:
        ValueError: A batch is not padded on the left, so that answers would not follow their questions.
    """
    config = greedy(model, tokenizer, max_new_tokens)
    for start in range(0, len(records), batch_size):
        asked = [records[row] for row in range(start, min(start + batch_size, len(records)))]
        batch = {name: value.to(model.device) for name, value in collate(asked).items()}
        if not batch["attention_mask"][:, -1].all():
            raise ValueError("the batch is padded on the right; generation needs padding_side='left'")
        with torch.inference_mode():
            tokens = model.generate(**batch, generation_config=config)
        answers = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        yield list(zip(asked, (answer.strip() for answer in answers), strict=True))
