"""MokA on unmodified multimodal models of many types: what must hold of every one of them (docs/models.md)."""

import functools
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model

from moka.adapter import MokaConfig, MokaLayer
from moka.adapter.modality_ids import modality_ids_from_tokens, placeholder_codes
from tests.adapter.conftest import randomise
from tests.adapter.tiny import AUDIO, IMAGE, PAD, TEXT, VISION, build, config_of
from tests.adapter.tiny_models import TINY_MODELS

SLOT_OF_CODE = torch.tensor([0, 1, 1, 2])  # text; image and video share the visual slot; audio
RANK = 4
SPECIAL_TOKENS = [0, 1, 2, *range(88, 100)]
NOT_LANGUAGE = re.compile(
    "vision|visual|image|img|audio|speech|talker|token2wav|projector|embed|expert|router|head|kv_b_proj"
)

every_model = pytest.mark.parametrize("name", TINY_MODELS)


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def adapt(tiny):
    return get_peft_model(tiny.model, MokaConfig(r=RANK, **tiny.settings))


def fresh(name):
    """A model with random MokA weights by the default config, and its prompts."""
    tiny = TINY_MODELS[name]()
    return randomise(adapt(tiny)).eval(), tiny


# Shared by the tests that leave it as it is.
adapted = functools.cache(fresh)


def running(model, tiny):
    """The module whose forward a user calls."""
    return model.get_base_model().get_submodule(tiny.part) if tiny.part else model


def logits(model, tiny, **inputs):
    with torch.no_grad():
        return running(model, tiny)(**(inputs or tiny.inputs())).logits


def base_logits(tiny):
    """The model's own logits; frozen, because torch picks other kernels for weights that want gradients."""
    with torch.no_grad():
        return tiny.model.requires_grad_(False).get_submodule(tiny.part)(**tiny.inputs()).logits


def layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, MokaLayer)}


def blocks(weight):
    """The A of every slot, from a layer's stacked weight."""
    return weight.unflatten(0, (-1, RANK))


def present_slots(tiny):
    return {0} | {int(SLOT_OF_CODE[code]) for code in tiny.counts()}


def text_only(tiny):
    ids = torch.randint(3, 80, (1, 9), generator=torch.Generator().manual_seed(3))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"mm_token_type_ids": torch.zeros_like(ids)} if tiny.wants_ids else {})


def generate(model, tiny, inputs, **kwargs):
    """Four new tokens, never one with a meaning of its own, and the scores of each."""
    kwargs[f"{tiny.part}_max_new_tokens" if tiny.part else "max_new_tokens"] = 4
    out = model.generate(
        **inputs,
        **kwargs,
        **tiny.generation,
        do_sample=False,
        suppress_tokens=SPECIAL_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences, torch.stack(out.logits, 1)


@every_model
def test_every_token_gets_the_slot_of_its_modality(name):
    """Derived from the placeholder ids in the config, image and video alike in the visual slot, padding in none."""
    model, tiny = adapted(name)
    inputs = tiny.inputs()
    ids = modality_ids_from_tokens(inputs["input_ids"], tiny.model.get_submodule(tiny.part).config)
    assert torch.equal(ids, tiny.modality_ids())
    assert {code: int((ids == code).sum()) for code in tiny.counts()} == tiny.counts()
    assert set(tiny.counts()) != set()
    seen = []
    handles = [
        layer.register_forward_hook(lambda layer, *_: seen.append(layer.router.current["default"].slots))
        for layer in layers(model).values()
    ]
    logits(model, tiny, **inputs)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(handles)
    expected = SLOT_OF_CODE[ids].masked_fill(inputs["attention_mask"] == 0, -1)
    assert all(torch.equal(slots, expected) for slots in seen)


@every_model
def test_only_the_language_model_is_adapted(name):
    model, _ = adapted(name)
    names = list(layers(model))
    blocks_of_layers = {re.search(r"layers\.\d+", path).group() for path in names}
    assert blocks_of_layers == {"layers.0", "layers.1"}
    assert not [path for path in names if NOT_LANGUAGE.search(path)]
    assert {"self_attn"} <= {path.split(".")[-2] for path in names}
    assert all(("moka_" in name) == p.requires_grad for name, p in model.named_parameters())


@every_model
def test_zero_b_is_the_base_model(name):
    tiny = TINY_MODELS[name]()
    expected = base_logits(tiny)
    assert torch.equal(logits(adapt(tiny).eval(), tiny), expected)
    model, _ = adapted(name)
    assert (logits(model, tiny) - expected).abs().max() > 1e-3


@every_model
def test_gradients(name):
    """The answer's loss reaches every slot that has tokens, and nothing but the adapter."""
    model, tiny = fresh(name)
    model.train()
    present = present_slots(tiny)
    out = running(model, tiny)(**tiny.inputs(answer=True))
    out.loss.backward(retain_graph=True)
    for path, layer in layers(model).items():
        if "layers.0." in path:  # in the last block, media reach the answer through keys and values only
            check_slots(layer, present)
    out.logits.square().mean().backward()
    for layer in layers(model).values():
        check_slots(layer, present)
        assert layer.moka_B["default"].weight.grad.abs().max() > 0
    assert all(("moka_" in path) == (p.grad is not None) for path, p in model.named_parameters())


def check_slots(layer, present):
    for slot, gradient in enumerate(blocks(layer.moka_A["default"].weight.grad)):
        assert (gradient.abs().max() > 0) == (slot in present), slot


@every_model
def test_a_slot_matters_if_it_has_tokens(name):
    model, tiny = adapted(name)
    batches = [(tiny.inputs(), present_slots(tiny))] + ([(text_only(tiny), {0})] if tiny.text_alone else [])
    for inputs, present in batches:
        before = logits(model, tiny, **inputs)
        for slot in range(3):
            weights = [blocks(layer.moka_A["default"].weight.data)[slot] for layer in layers(model).values()]
            saved = [weight.clone() for weight in weights]
            for weight in weights:
                weight += 0.5
            changed = not torch.equal(logits(model, tiny, **inputs), before)
            for weight, old in zip(weights, saved, strict=True):
                weight.copy_(old)
            assert changed == (slot in present), slot


@every_model
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_with_and_without_cache_agree(name, beams):
    model, tiny = adapted(name)
    if beams > 1 and not tiny.beams:
        with pytest.raises(ValueError, match="features"), model.disable_adapter():
            generate(model, tiny, tiny.inputs(), num_beams=beams)  # so it is without an adapter
        return
    inputs = tiny.inputs()
    tokens, scores = generate(model, tiny, inputs, num_beams=beams)
    uncached_tokens, uncached_scores = generate(model, tiny, inputs, num_beams=beams, use_cache=False)
    assert tokens.shape == (2, inputs["input_ids"].shape[1] + 4)
    assert torch.equal(tokens, uncached_tokens)
    close(scores, uncached_scores)
    with model.disable_adapter():
        assert not torch.allclose(generate(model, tiny, inputs, num_beams=beams)[1], scores, atol=1e-4)


@every_model
def test_a_batch_generates_as_its_prompts_alone(name):
    model, tiny = adapted(name)
    together, scores = generate(model, tiny, tiny.inputs())
    assert (tiny.inputs()["input_ids"][1] == PAD).any()
    for row in (0, 1):
        alone, scores_alone = generate(model, tiny, tiny.inputs(rows=(row,)))
        assert torch.equal(alone[0, -4:], together[row, -4:])
        close(scores_alone[0], scores[row])


def count_hooks(model):
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules())


@every_model
def test_save_reload_and_unload(name, tmp_path):
    model, tiny = adapted(name)
    model.save_pretrained(tmp_path)
    again = TINY_MODELS[name]()
    base, hooks = base_logits(again), count_hooks(again.model)
    loaded = PeftModel.from_pretrained(again.model, tmp_path).eval()
    assert torch.equal(logits(loaded, again), logits(model, tiny))
    unloaded = loaded.unload()
    assert count_hooks(unloaded) == hooks
    for part in unloaded.modules():
        assert not {"moka_router", "generate"} & part.__dict__.keys()
    assert torch.equal(base_logits(again), base)


@every_model
def test_explicit_ids_win(name):
    """All zeros: every token is routed as text, which is what equal A and no attention would give."""
    model, tiny = adapted(name)
    inputs = tiny.inputs()
    derived = logits(model, tiny, **inputs)
    explicit = tiny.modality_ids()
    assert torch.equal(logits(model, tiny, **inputs, modality_ids=explicit), derived)
    assert torch.equal(logits(model, tiny, **inputs | {"mm_token_type_ids": explicit}), derived)
    as_text = logits(model, tiny, **inputs, modality_ids=torch.zeros_like(explicit))
    assert not torch.allclose(as_text, derived, atol=1e-4)
    _, scores = generate(model, tiny, inputs)
    assert torch.equal(generate(model, tiny, inputs, modality_ids=explicit)[1], scores)
    assert not torch.allclose(generate(model, tiny, inputs, modality_ids=0 * explicit)[1], scores, atol=1e-4)
    saved = {path: layer.moka_A["default"].weight.data.clone() for path, layer in layers(model).items()}
    for layer in layers(model).values():
        slots = blocks(layer.moka_A["default"].weight.data)
        slots.copy_(slots[:1].expand_as(slots))
    config = model.peft_config["default"]
    try:
        config.cross_weight = 0.0
        close(logits(model, tiny, **inputs)[inputs["attention_mask"].bool()], as_text[inputs["attention_mask"].bool()])
    finally:
        config.cross_weight = 1.0
        for path, layer in layers(model).items():
            layer.moka_A["default"].weight.data.copy_(saved[path])
    assert torch.equal(logits(model, tiny, **inputs), derived)


@every_model
def test_explicit_question_wins(name):
    model, tiny = adapted(name)
    inputs = tiny.inputs()
    derived = logits(model, tiny, **inputs)
    text = (tiny.modality_ids() == 0) & inputs["attention_mask"].bool()
    assert torch.equal(logits(model, tiny, **inputs, question_mask=text), derived)
    last = torch.zeros_like(text)
    last[:, -1] = True
    assert not torch.allclose(logits(model, tiny, **inputs, question_mask=last), derived, atol=1e-4)
    answered = tiny.inputs(answer=True)
    prompt = (tiny.modality_ids(answer=True) == 0) & answered["attention_mask"].bool() & (answered["labels"] == -100)
    by_labels = logits(model, tiny, **answered)
    assert torch.equal(logits(model, tiny, **answered, question_mask=prompt), by_labels)


class TestErrors:
    def test_media_without_a_placeholder_id(self):
        """They would pass for text without a word."""
        model, tiny = fresh("voxtral")
        tiny.model.config.audio_token_id = None
        for call in (model, functools.partial(model.generate, max_new_tokens=1)):
            with pytest.raises(ValueError, match=r"input_features was passed.*audio_token_id.*modality_ids"):
                call(**tiny.inputs())
        assert text_only(tiny).keys() == {"input_ids", "attention_mask"}
        assert logits(model, tiny, **text_only(tiny)).isfinite().all()

    def test_placeholder_ids_that_no_token_can_have(self):
        model, tiny = fresh("llava")
        inputs = tiny.inputs()
        tiny.model.config.image_token_index = -200
        assert placeholder_codes(tiny.model.config) == {}
        with pytest.raises(ValueError, match=r"pixel_values was passed.*image_token_id"):
            model(**inputs)
        # The remedy that the error names gets past the adapter; this model cannot place its image any more.
        with pytest.raises(ValueError, match="Image features and image tokens do not match"):
            model(**inputs, modality_ids=tiny.modality_ids())

    def test_encoders_inside_the_language_model(self):
        """Phi-4-multimodal keeps its encoders in the decoder: they are outside all the same."""
        tiny = TINY_MODELS["phi4_multimodal"]()
        with pytest.raises(ValueError, match=r"outside the language model .*embed_tokens_extend"):
            get_peft_model(tiny.model, MokaConfig(target_modules=["o_proj"]))
        get_peft_model(tiny.model, MokaConfig(target_modules=r"model\.layers\..*o_proj"))

    def test_a_model_that_expands_placeholders_itself(self):
        """Qwen2-Audio still takes one placeholder an audio: the tokens in its layers are then not those passed."""
        model, tiny = adapted("qwen2_audio")
        inputs = tiny.inputs()
        keep = (inputs["input_ids"] != AUDIO) | (inputs["input_ids"].roll(1, dims=1) != AUDIO)
        short = {
            name: torch.stack([v[k] for v, k in zip(inputs[name], keep, strict=True)])
            for name in ("input_ids", "attention_mask")
        }
        with pytest.raises(ValueError, match=r"shape \(2, 18, 32\), but the modality ids have shape \(2, 11\)"):
            model(**inputs | short)

    def test_media_that_are_no_tokens(self):
        """Mllama's image features are keys of cross-attention layers: as many as there are patches, not tokens."""
        vision = VISION | {
            "attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
            "intermediate_layers_indices": [0],
            "vision_output_dim": 32,
        }
        text = TEXT | {"model_type": "mllama_text_model", "cross_attention_layers": [1]}
        text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
        config = config_of("mllama", vision_config=vision, text_config=text, image_token_index=IMAGE)
        with pytest.raises(ValueError, match=r"MllamaTextModel reads media through cross-attention .*cross_attn"):
            get_peft_model(build("MllamaForConditionalGeneration", config), MokaConfig())

    def test_latent_attention_cannot_be_adapted_where_it_reads_the_cache(self):
        tiny = TINY_MODELS["kimi_k25"]()
        model = get_peft_model(tiny.model, MokaConfig(target_modules=r".*language_model.*kv_b_proj"))
        with pytest.raises(ValueError, match="Adapt only layers that see the language model's token sequence"):
            model(**tiny.inputs())


def test_the_documented_models_are_the_tested_ones():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    tested = page.split("## Not covered")[0]
    assert re.findall(r"^\| `(\w+)` \|", tested, flags=re.M) == sorted(TINY_MODELS)


# Experts' grouped products and Gemma 4's encoders do not run in float64.
FLOAT32_ONLY = re.compile("moe|aria|kimi|gemma4")


@every_model
def test_the_text_part_merges(name):
    """Logits stay, media included; in float64 if it can be, because (W + sBA) x and W x + sBA x round apart."""
    model, tiny = fresh(name)
    inputs = tiny.inputs()
    if not FLOAT32_ONLY.search(name):
        model.double()
        inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    before = logits(model, tiny, **inputs)
    model.merge_text()
    close(logits(model, tiny, **inputs), before)
    model.unmerge_text()
    close(logits(model, tiny, **inputs), before)
