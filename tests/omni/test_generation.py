"""`generate` with media: cache, batches, beams, samples, and what adapters pass along."""

from typing import Any

import pytest
import torch

from moka.omni import MokaOmniForConditionalGeneration, MokaOmniProcessor
from tests.omni.conftest import FAMILIES, SAMPLES, Build, frames, mixed_batch, sound

Omni = tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]
STEPS = {"max_new_tokens": 6, "eos_token_id": None}
# Several rows with the same kinds of media, in unequal numbers: wrongly repeated media would land in the wrong row.
RICH = [
    *SAMPLES,
    {"text": "<|video|> what <|image|> in", "videos": [frames(5, 1)], "images": [frames(6)[0]]},
    {"text": "hear <|audio|> and <|audio|> ?", "audio": [sound(7, 1), sound(8, 2)]},
]


@pytest.fixture(scope="module", params=FAMILIES)
def omni(request: pytest.FixtureRequest, build: Build) -> Omni:
    return build(request.param)


@pytest.fixture(scope="module")
def llama(build: Build) -> Omni:
    return build()


def written(model: Any, batch: Any, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        tokens = model.generate(**batch, **{**STEPS, **options})
    return tokens[:, batch["input_ids"].shape[1] :]


def test_the_cache_changes_nothing(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor, RICH)
    cached = written(model, batch)
    assert torch.equal(cached, written(model, batch, use_cache=False))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for step in range(cached.shape[1]):
        media = {key: value for key, value in batch.items() if value.ndim > 2}
        logits = model(input_ids=ids, attention_mask=mask, **media).logits[:, -1]
        logits[:, model.generation_config.suppress_tokens] = -torch.inf
        assert torch.equal(logits.argmax(-1), cached[:, step])
        ids = torch.cat([ids, cached[:, step : step + 1]], 1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)


def test_a_batch_answers_as_its_samples_alone(omni: Omni) -> None:
    model, processor = omni
    together = written(model, mixed_batch(processor, RICH))
    for row, sample in enumerate(RICH):
        assert torch.equal(together[row], written(model, mixed_batch(processor, [sample]))[0])


@pytest.mark.parametrize("returned", [1, 3])
def test_beams_of_a_batch_equal_beams_alone(omni: Omni, returned: int) -> None:
    model, processor = omni
    options = {"num_beams": 3, "num_return_sequences": returned, "length_penalty": 0.0}
    together = written(model, mixed_batch(processor, RICH), **options).view(len(RICH), returned, -1)
    for row, sample in enumerate(RICH):
        assert torch.equal(together[row], written(model, mixed_batch(processor, [sample]), **options))


@torch.no_grad()
def test_repeated_rows_keep_their_media(omni: Omni) -> None:
    model, processor = omni
    batch = dict(mixed_batch(processor, RICH))
    expected = model(**batch).logits.repeat_interleave(3, 0)
    input_ids, others = model._expand_inputs_for_generation(expand_size=3, **batch)
    torch.testing.assert_close(model(input_ids=input_ids, **others).logits, expected, atol=1e-3, rtol=1e-3)
    assert batch.keys() == others.keys() | {"input_ids"}


def test_a_beam_scores_what_the_model_says(llama: Omni) -> None:
    model, processor = llama
    batch = mixed_batch(processor, RICH)
    output = model.generate(
        **batch, **STEPS, num_beams=3, length_penalty=0.0, output_scores=True, return_dict_in_generate=True
    )
    length = batch["input_ids"].shape[1]
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, STEPS["max_new_tokens"]), value=1)
    media = {key: value for key, value in batch.items() if value.ndim > 2}
    logits = model(input_ids=output.sequences, attention_mask=mask, **media).logits[:, length - 1 : -1]
    chosen = logits.log_softmax(-1).gather(-1, output.sequences[:, length:, None]).sum((1, 2))
    torch.testing.assert_close(output.sequences_scores, chosen, atol=1e-3, rtol=1e-3)


def test_samples_are_of_their_own_row(llama: Omni) -> None:
    model, processor = llama
    batch = mixed_batch(processor, RICH)
    # As good as greedy: were media repeated in another order, rows would differ from it.
    samples = written(model, batch, do_sample=True, temperature=1e-4, top_k=0, num_return_sequences=3)
    assert torch.equal(samples, written(model, batch).repeat_interleave(3, 0))
    torch.manual_seed(0)
    hot = written(model, batch, do_sample=True, temperature=5.0, top_k=0, num_return_sequences=3)
    assert len(hot.unique(dim=0)) > len(RICH)


def test_placeholders_are_never_written(llama: Omni) -> None:
    model, processor = llama
    ids = {processor.image_token_id, processor.video_token_id, processor.audio_token_id}
    batch = mixed_batch(processor)
    torch.manual_seed(0)
    tokens = written(model, batch, do_sample=True, temperature=50.0, top_k=0, num_return_sequences=40)
    assert len(tokens.unique()) > 10
    assert not ids & set(tokens.unique().tolist())


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("beams", [1, 2])
def test_each_step_gets_masks_of_its_tokens(llama: Omni, use_cache: bool, beams: int) -> None:
    model, processor = llama
    batch = mixed_batch(processor)
    length = batch["input_ids"].shape[1]
    question = (batch["mm_token_type_ids"] == 0) & batch["attention_mask"].bool()
    seen = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs)

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        model.generate(**batch, **STEPS, question_mask=question, use_cache=use_cache, num_beams=beams)
    finally:
        handle.remove()
    assert len(seen) == STEPS["max_new_tokens"]
    for step, kwargs in enumerate(seen):
        assert kwargs["question_mask"].shape == kwargs["mm_token_type_ids"].shape == kwargs["input_ids"].shape
        assert ("input_features" in kwargs) == (step == 0 or not use_cache)
    prompts = question.repeat_interleave(beams, 0)
    assert torch.equal(seen[0]["question_mask"], prompts)
    last = torch.nn.functional.pad(prompts, (0, STEPS["max_new_tokens"] - 1))
    assert torch.equal(seen[-1]["question_mask"], last[:, -1:] if use_cache else last)
    assert seen[-1]["input_ids"].shape[1] == (1 if use_cache else length + STEPS["max_new_tokens"] - 1)


def test_embeds_may_be_continued_but_not_with_media(llama: Omni) -> None:
    model, processor = llama
    batch = mixed_batch(processor, [SAMPLES[2]])
    embeds = model.get_input_embeddings()(batch["input_ids"])
    mask = batch["attention_mask"]
    question = mask.bool()
    tokens = model.generate(inputs_embeds=embeds, attention_mask=mask, question_mask=question, **STEPS)
    assert torch.equal(tokens, written(model, batch))
    values = processor.process_images(frames(1))
    for beams in (1, 2):
        with pytest.raises(ValueError, match="pixel_values passed with inputs_embeds"):
            model.generate(inputs_embeds=embeds, attention_mask=mask, pixel_values=values, num_beams=beams, **STEPS)


def test_wrong_counts_are_refused_before_generating(llama: Omni) -> None:
    model, processor = llama
    batch = mixed_batch(processor)
    batch["pixel_values"] = batch["pixel_values"].repeat(2, 1, 1, 1)
    for beams in (1, 2):
        with pytest.raises(ValueError, match="pixel_values holds 2 items of 3 tokens, so 6 image"):
            written(model, batch, num_beams=beams)
    with pytest.raises(ValueError, match="not used by the model: \\['pixel_valves'\\]"):
        model.generate(**batch, pixel_valves=batch["pixel_values"], **STEPS)
