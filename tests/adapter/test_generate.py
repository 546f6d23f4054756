"""Generation with MokA: caches, beams, sampling, padding, and what must be refused."""

import threading

import pytest
import torch
from peft import get_peft_model
from transformers import DynamicCache

from moka.adapter import MokaConfig
from tests.adapter.conftest import AUDIO, BACKBONES, VIDEO, batch, build_base, build_moka, randomise

LAYOUTS = ("ttvvvtaaqqqt", "vvtqq", "aaaqqt")


def prompts(*layouts, **kwargs):
    inputs = batch(*layouts, **kwargs)
    inputs.pop("position_ids")  # generate() makes its own
    return inputs


def generate(model, inputs, **kwargs):
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, **kwargs)


def uncached_greedy(model, inputs, steps):
    """Greedy decoding from whole forwards: every new token is text, even a placeholder, and never a key."""
    ids, mask, question = inputs["input_ids"], inputs["attention_mask"], inputs["question_mask"]
    codes = torch.where(ids == VIDEO, 2, torch.where(ids == AUDIO, 3, 0))
    for _ in range(steps):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            scores = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                question_mask=question,
                modality_ids=torch.nn.functional.pad(codes, (0, ids.shape[1] - codes.shape[1])),
            ).logits
        ids = torch.cat([ids, scores[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        question = torch.cat([question, torch.zeros_like(question[:, :1])], 1)
    return ids


@pytest.mark.parametrize("backbone", BACKBONES)
def test_cached_equals_uncached(backbone):
    model = build_moka(backbone)
    model.generation_config.eos_token_id = None
    inputs = prompts(*LAYOUTS)
    expected = uncached_greedy(model, inputs, 6)
    assert torch.equal(generate(model, inputs), expected)
    assert torch.equal(generate(model, inputs, use_cache=False), expected)


def test_derived_question_agrees_cached_and_uncached():
    """Without an explicit mask, generated text must not become a key of the media before it."""
    model = build_moka()
    inputs = prompts(*LAYOUTS, question=False)
    assert torch.equal(generate(model, inputs), generate(model, inputs, use_cache=False))


def test_batch_equals_singles():
    model = build_moka()
    together = generate(model, prompts(*LAYOUTS))
    for i, layout in enumerate(LAYOUTS):
        alone = generate(model, prompts(layout, seed=i))
        assert torch.equal(
            alone[0, len(layout) :], together[i, max(map(len, LAYOUTS)) :][: alone.shape[1] - len(layout)]
        )


@pytest.mark.parametrize("explicit", [True, False])
def test_beams_equal_the_same_beams_one_sample_at_a_time(explicit):
    model = build_moka()
    inputs = prompts(*LAYOUTS, question=explicit)
    if explicit:
        inputs["modality_ids"] = torch.where(inputs["input_ids"] >= 60, 2, 0)
    together = generate(model, inputs, num_beams=3, num_return_sequences=2)
    for i in range(len(LAYOUTS)):
        row = {name: value[i : i + 1] for name, value in inputs.items()}
        alone = generate(model, row, num_beams=3, num_return_sequences=2)
        width = min(alone.shape[1], together.shape[1])
        assert torch.equal(alone[:, :width], together[2 * i : 2 * i + 2, :width])


def test_sampling_is_reproducible_and_uses_the_prompt_s_ids():
    model = build_moka()
    inputs = prompts(*LAYOUTS)
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(4)
        outputs.append(model.generate(**inputs, max_new_tokens=6, do_sample=True, top_k=5, use_cache=use_cache))
    assert torch.equal(*outputs)


def test_media_matters_to_generation():
    """Explicit ids reach the layers through generate: calling media text changes the scores."""
    model = build_moka()
    inputs = prompts(*LAYOUTS)
    kwargs = {"return_dict_in_generate": True, "output_scores": True}
    derived = generate(model, inputs, **kwargs).scores[0]
    as_text = generate(model, inputs | {"modality_ids": torch.zeros_like(inputs["input_ids"])}, **kwargs).scores[0]
    assert (derived - as_text).abs().max() > 1e-3


def test_attention_mask_left_to_generate():
    """generate() infers padding from the pad token; padded prompt tokens must not become keys."""
    model = build_moka()
    inputs = prompts(*LAYOUTS)
    expected = generate(model, inputs)
    inputs.pop("attention_mask")
    assert torch.equal(generate(model, inputs), expected)


def test_from_embeddings():
    model = build_moka()
    inputs = prompts(*LAYOUTS)
    expected = generate(model, inputs)[:, inputs["input_ids"].shape[1] :]
    ids = inputs.pop("input_ids")
    codes = torch.where(ids == 60, 2, torch.where(ids == 61, 3, 0))
    embeds = model.get_base_model().get_input_embeddings()(ids)
    assert torch.equal(generate(model, inputs | {"inputs_embeds": embeds, "mm_token_type_ids": codes}), expected)
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        generate(model, inputs | {"inputs_embeds": embeds})


def test_static_cache():
    model = build_moka()
    inputs = prompts(*LAYOUTS)
    expected = generate(model, inputs)
    assert torch.equal(generate(model, inputs, cache_implementation="static", disable_compile=True), expected)


def test_every_entry_to_generate_is_the_same():
    """PeftModel of any task type, the tuner, and the base model itself."""
    inputs = prompts("vvvtqqt", "aaqqqqt")
    outputs = []
    for task in ("CAUSAL_LM", None):
        model = randomise(get_peft_model(build_base(), MokaConfig(dropout=0.0, task_type=task))).eval()
        for entry in (model, model.base_model, model.get_base_model()):
            outputs.append(generate(entry, inputs))
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_media_apart_from_the_question_is_refused():
    model = build_moka()
    inputs = prompts("vvvvtqqqt")
    with pytest.raises(ValueError, match="both must be in one forward"):
        generate(model, inputs, prefill_chunk_size=4)
    cache = DynamicCache()
    prefix = {name: value[:, :4] for name, value in inputs.items()}
    with torch.no_grad(), model.disable_adapter():
        model(**{k: v for k, v in prefix.items() if k != "question_mask"}, past_key_values=cache)
    with pytest.raises(ValueError, match="both must be in one forward"):
        generate(model, inputs, past_key_values=cache)


def test_chunked_prefill_is_exact_without_attention():
    model = build_moka(cross_weight=0.0)
    inputs = prompts("vvvvtaaqqqt")
    assert torch.equal(generate(model, inputs, prefill_chunk_size=4), generate(model, inputs))


def test_threads_do_not_mix():
    model = build_moka()
    batches = [prompts("vvvtqqt", seed=1), prompts("aaaqqqtt", seed=2)]
    expected = [generate(model, inputs) for inputs in batches]
    failures = []

    def work(index):
        for _ in range(8):
            if not torch.equal(generate(model, batches[index]), expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_generation_fails_cleanly_and_recovers():
    model = build_moka()
    inputs = prompts("vvvtqqt")
    expected = generate(model, inputs)
    with pytest.raises(ValueError, match="question_mask has shape"):
        generate(model, inputs | {"question_mask": inputs["question_mask"][:, 1:]})
    assert torch.equal(generate(model, inputs), expected)
