"""What must hold of an adapted language model, whatever its weights."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from moka.adapter import MokaConfig, MokaLayer
from tests.adapter.conftest import AUDIO, BACKBONES, SHAPE, VIDEO, batch, build_base, build_moka, randomise

LAYOUTS = ("ttvvvvtaaatqqqt", "vvtqqt", "aaatqqqqtt", "tttqq")


def logits(model, **inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("backbone", BACKBONES)
def test_zero_b_is_the_base_model(backbone):
    base = build_base(backbone)
    inputs = batch(*LAYOUTS)
    question = inputs.pop("question_mask")
    expected = logits(base, **inputs)
    model = get_peft_model(base, MokaConfig(task_type="CAUSAL_LM")).eval()
    assert torch.equal(logits(model, question_mask=question, **inputs), expected)


def test_random_b_is_not_the_base_model(moka_model):
    inputs = batch(*LAYOUTS)
    adapted = logits(moka_model, **inputs)
    with moka_model.disable_adapter():
        base = logits(moka_model, **inputs)
    assert (adapted - base).abs().max() > 0.1


def test_one_slot_is_exactly_lora():
    """Same seed, same initial weights, same dropout, same outputs and gradients, to the last bit."""
    targets = ["q_proj", "v_proj", "down_proj"]
    lora = LoraConfig(r=4, lora_alpha=16, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM")
    moka = MokaConfig(
        r=4, alpha=16, dropout=0.1, target_modules=targets, modalities={"all": [0, 1, 2, 3]}, task_type="CAUSAL_LM"
    )
    results = []
    for config, prefix in ((lora, "lora_"), (moka, "moka_")):
        base = build_base()
        torch.manual_seed(5)
        model = get_peft_model(base, config).train()
        weights = {n.replace(prefix, ""): p for n, p in model.named_parameters() if prefix in n}
        generator = torch.Generator().manual_seed(2)
        for name, parameter in weights.items():
            if name.split(".")[-3] == "B":
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        inputs = batch("vvtqqtyy", "aaatqqyy", labels=True, question=False)
        torch.manual_seed(6)
        out = model(**inputs)
        out.loss.backward()
        results.append((out.logits, {name: (p.detach(), p.grad) for name, p in weights.items()}))
    (lora_logits, lora_weights), (moka_logits, moka_weights) = results
    assert torch.equal(lora_logits, moka_logits)
    assert lora_weights.keys() == moka_weights.keys()
    for name, (weight, gradient) in lora_weights.items():
        assert torch.equal(weight, moka_weights[name][0]), name
        torch.testing.assert_close(gradient, moka_weights[name][1])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backbone, side):
    model = build_moka(backbone)
    for i, layout in enumerate(LAYOUTS):
        alone = logits(model, **batch(layout, seed=i))[0]
        padded = logits(model, **batch(layout, seed=i, side=side, length=len(layout) + 5))[0]
        padded = padded[5:] if side == "left" else padded[:-5]
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_samples_alone(moka_model, side):
    together = logits(moka_model, **batch(*LAYOUTS, side=side))
    for i, layout in enumerate(LAYOUTS):
        alone = logits(moka_model, **batch(layout, seed=i))[0]
        row = together[i][-len(layout) :] if side == "left" else together[i][: len(layout)]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("explicit_mask", [True, False])
def test_answer_tokens_never_change_earlier_logits(moka_model, explicit_mask):
    """With answers as keys, media before them would see the label."""
    moka_model.train()  # dropout is 0; in training the question comes from the labels
    inputs = batch("vvvtaatqqqtyyyy", labels=True, question=explicit_mask)
    before = moka_model(**inputs).logits.detach()
    changed = copy.deepcopy(inputs)
    changed["input_ids"][0, -3:] = torch.tensor([7, 8, 9])
    changed["labels"][0, -3:] = torch.tensor([7, 8, 9])
    after = moka_model(**changed).logits.detach()
    assert torch.equal(before[:, :-3], after[:, :-3])
    assert not torch.equal(before, after)


def test_question_reaches_media_before_it(moka_model):
    """The point of the attention: another question, another update of the media in front of it."""
    inputs = batch("vvvtqqq")
    before = logits(moka_model, **inputs)
    inputs["input_ids"][0, -1] = (inputs["input_ids"][0, -1] + 1) % 50 + 3
    after = logits(moka_model, **inputs)
    assert (before[0, :3] - after[0, :3]).abs().max() > 1e-4


def capture_deltas(model, **inputs):
    """The updates that each adapted layer adds, in the first decoder layer."""
    deltas, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, MokaLayer) and ".layers.0.self_attn.q_proj" in name:
            handles.append(
                module.register_forward_hook(
                    lambda m, args, out, name=name: deltas.__setitem__(name, (out - m.base_layer(args[0])).detach())
                )
            )
    logits(model, **inputs)
    for handle in handles:
        handle.remove()
    return next(iter(deltas.values()))


def test_permuting_media_tokens_permutes_their_updates():
    """In the first layer, where inputs carry no position, the update of a media token ignores its place."""
    model = build_moka()
    embeddings = model.get_base_model().get_input_embeddings()
    inputs = batch("vvvvtqqt")
    embeds = embeddings(inputs.pop("input_ids")).detach()
    embeds[0, :4] = torch.randn(4, embeds.shape[-1])
    ids = torch.tensor([[2, 2, 2, 2, 0, 0, 0, 0]])
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    straight = capture_deltas(model, inputs_embeds=embeds, modality_ids=ids, **inputs)
    permuted = capture_deltas(model, inputs_embeds=embeds[:, order], modality_ids=ids, **inputs)
    torch.testing.assert_close(permuted, straight[:, order])
    assert not torch.allclose(permuted[:, :4], straight[:, :4])


def test_explicit_ids_equal_derived_ids(moka_model):
    inputs = batch(*LAYOUTS)
    ids = torch.zeros_like(inputs["input_ids"])
    ids[inputs["input_ids"] == VIDEO] = 2
    ids[inputs["input_ids"] == AUDIO] = 3
    derived = logits(moka_model, **inputs)
    for name in ("mm_token_type_ids", "modality_ids"):
        assert torch.equal(logits(moka_model, **inputs, **{name: ids}), derived)
    assert not torch.allclose(logits(moka_model, **inputs, modality_ids=torch.zeros_like(ids)), derived)


def test_modality_ids_win_over_mm_token_type_ids(moka_model):
    inputs = batch("vvtqq")
    ids = torch.zeros_like(inputs["input_ids"])
    both = logits(moka_model, **inputs, modality_ids=ids, mm_token_type_ids=ids + 3)
    assert torch.equal(both, logits(moka_model, **inputs, modality_ids=ids))


def test_default_question_is_the_prompt_s_text(moka_model):
    """In eval mode without labels every text token of the input is prompt."""
    inputs = batch("vvtqqt", "ttaaqq", question=False)
    text = (inputs["input_ids"] < 60) & inputs["attention_mask"].bool()
    assert torch.equal(logits(moka_model, **inputs), logits(moka_model, **inputs, question_mask=text))


def test_labels_mark_the_question_in_training(moka_model):
    moka_model.train()
    inputs = batch("vvtqqtyy", "aaqqyy", labels=True, question=False)
    prompt = (inputs["labels"] == -100) & (inputs["input_ids"] < 60) & inputs["attention_mask"].bool()
    assert torch.equal(moka_model(**inputs).logits, moka_model(**inputs, question_mask=prompt).logits)


def test_cross_weight_zero_is_causal_and_needs_no_question():
    model = build_moka(cross_weight=0.0).train()
    inputs = batch("vvvtqqq", question=False)
    before = model(**inputs).logits.detach()
    inputs["input_ids"][0, -1] = 5 + (inputs["input_ids"][0, -1] == 5).long()
    after = model(**inputs).logits.detach()
    assert torch.equal(before[0, :-1], after[0, :-1])


def test_each_slot_has_its_own_weights():
    """Changing the audio A changes audio rows only (first layer), and so for every slot."""
    model = build_moka(cross_weight=0.0)
    inputs = batch("ttvvvaaat")
    before = capture_deltas(model, **inputs)
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
    for slot, rows in {0: [0, 1, 8], 1: [2, 3, 4], 2: [5, 6, 7]}.items():
        weight = layer.moka_A["default"].weight
        saved = weight.detach().clone()
        weight.data[slot * 4 : slot * 4 + 4] += 1
        changed = (capture_deltas(model, **inputs) - before).abs().sum(-1)[0] > 1e-6
        assert changed.nonzero().flatten().tolist() == rows
        weight.data.copy_(saved)


def test_deepcopy_is_independent(moka_model):
    twin = copy.deepcopy(moka_model)
    inputs = batch(*LAYOUTS)
    assert torch.equal(logits(twin, **inputs), logits(moka_model, **inputs))
    randomise(twin, seed=9)
    assert not torch.allclose(logits(twin, **inputs), logits(moka_model, **inputs))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_base_with_its_float32_adapter(backbone):
    """PEFT keeps the adapter in float32 beside a bfloat16 base; updates then agree with a float32 model's."""
    inputs = batch(*LAYOUTS)
    expected = logits(build_moka(backbone), **inputs)
    config = MokaConfig(r=4, dropout=0.0, task_type="CAUSAL_LM")
    model = randomise(get_peft_model(build_base(backbone).bfloat16(), config)).eval()
    assert {p.dtype for n, p in model.named_parameters() if "moka_" in n} == {torch.float32}
    ours = logits(model, **inputs)
    assert ours.dtype == torch.bfloat16
    real = inputs["attention_mask"].bool()
    error = (ours.float() - expected)[real].norm(dim=-1) / expected[real].norm(dim=-1)
    # The median: rounding the base's weights alone already turns one token of the random LLaMA around.
    assert error.median() < 0.03
    prompt = {name: value for name, value in inputs.items() if name != "position_ids"}
    assert model.generate(**prompt, max_new_tokens=2, do_sample=False).shape[0] == len(LAYOUTS)


def test_a_copy_unloads_by_itself(moka_model):
    twin, inputs = copy.deepcopy(moka_model), batch("vvtqq")
    before = moka_model(**inputs).logits
    plain = twin.unload()
    assert not [hook for module in plain.modules() for hook in (*module._forward_pre_hooks, *module._forward_hooks)]
    assert "generate" not in plain.__dict__
    plain(input_ids=inputs["input_ids"])
    # The original keeps its hooks.
    assert torch.equal(moka_model(**inputs).logits, before)


def test_a_model_without_placeholders_says_that_all_is_text():
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), MokaConfig(task_type="CAUSAL_LM")).eval()
    ids = torch.tensor([[3, 4, 5]])
    with pytest.warns(UserWarning, match="LlamaConfig names no placeholder tokens .* takes every token for text"):
        model(input_ids=ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(input_ids=ids, modality_ids=torch.zeros_like(ids))
