"""Merging the text part: nothing may change but the cost of a step."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from moka.adapter import MokaConfig
from moka.adapter.layer import MokaLinear
from tests.adapter.conftest import AUDIO, BACKBONES, SHAPE, VIDEO, batch, build_base, build_moka, randomise

LAYOUTS = ("ttvvvtaaqqqt", "vvtqq", "aaaqqt", "tqq")


def layers(model):
    return [module for module in model.modules() if isinstance(module, MokaLinear)]


def weights(model):
    return [layer.base_layer.weight.detach().clone() for layer in layers(model)]


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits[inputs["attention_mask"].bool()]


def generated(model, inputs, **options):
    inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
    return model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"cross_weight": 0.0}, {"scale_before_attention": True, "use_rslora": True}, {"cross_weight": 0.05}],
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_and_generations_stay(backbone, options):
    model, inputs = build_moka(backbone, **options), batch(*LAYOUTS)
    before, tokens, beams = logits(model, inputs), generated(model, inputs), generated(model, inputs, num_beams=2)
    original = weights(model)
    model.merge_text()
    assert not any(torch.equal(old, new) for old, new in zip(original, weights(model), strict=True))
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-5, rtol=1e-4)
    assert torch.equal(generated(model, inputs), tokens)
    assert torch.equal(generated(model, inputs, num_beams=2), beams)
    assert torch.equal(generated(model, inputs, use_cache=False), tokens)
    model.unmerge_text()
    for old, new in zip(original, weights(model), strict=True):
        torch.testing.assert_close(new, old, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-5, rtol=1e-4)


def test_the_merged_weight_is_the_formula():
    model = build_moka()
    layer, expected = layers(model)[0], {}
    with torch.no_grad():
        for index, layer in enumerate(layers(model)):
            text = layer.moka_A["default"].weight[:4]
            expected[index] = layer.base_layer.weight + 4 * layer.moka_B["default"].weight @ text
    model.merge_text()
    for index, layer in enumerate(layers(model)):
        torch.testing.assert_close(layer.base_layer.weight, expected[index])


def test_a_decoding_step_runs_no_adapter(monkeypatch):
    model, inputs = build_moka(), batch(*LAYOUTS)
    model.merge_text()
    lengths = []
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: lengths.append(x.shape[1]) or _linear(self, x))
    generated(model, inputs)
    down = len(layers(model))
    # At the prefill each of them runs A's stack and B; afterwards only the base layers and the head.
    prefill = inputs["input_ids"].shape[1]
    assert sum(length == 1 for length in lengths) <= 8 * (down + 1)
    assert sum(length == prefill for length in lengths) >= 2 * down


def _linear(layer, x):
    return torch.nn.functional.linear(x, layer.weight, layer.bias)


def test_disabling_switching_and_deleting_see_the_base_model():
    model, inputs = build_moka(), batch(*LAYOUTS)
    model.add_adapter("other", MokaConfig(r=2, dropout=0.0, task_type="CAUSAL_LM"))
    randomise(model, seed=5)
    with model.disable_adapter():
        base = logits(model, inputs)
    first = logits(model, inputs)
    model.set_adapter("other")
    second = logits(model, inputs)
    model.merge_text(["default"])
    torch.testing.assert_close(logits(model, inputs), second, atol=1e-5, rtol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, inputs), base, atol=1e-5, rtol=1e-4)
    model.set_adapter("default")
    torch.testing.assert_close(logits(model, inputs), first, atol=1e-5, rtol=1e-4)
    model.merge_text(["other"])
    torch.testing.assert_close(logits(model, inputs), first, atol=1e-5, rtol=1e-4)
    model.delete_adapter("default")
    torch.testing.assert_close(logits(model, inputs), second, atol=1e-5, rtol=1e-4)
    plain = model.unload()
    with torch.no_grad():
        del inputs["question_mask"]
        found = plain(**inputs).logits[inputs["attention_mask"].bool()]
    torch.testing.assert_close(found, base, atol=1e-5, rtol=1e-4)


def test_merging_twice_is_merging_once():
    model, inputs = build_moka(), batch(*LAYOUTS)
    before = logits(model, inputs)
    model.merge_text()
    once = weights(model)
    model.merge_text()
    assert all(torch.equal(a, b) for a, b in zip(once, weights(model), strict=True))
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-5, rtol=1e-4)


def test_training_while_merged_is_refused():
    model, inputs = build_moka(), batch(*LAYOUTS)
    model.merge_text()
    model.train()
    with pytest.raises(RuntimeError, match=r"unmerge_text\(\) first"):
        model(**inputs)
    model.unmerge_text()
    model(**inputs).logits.sum().backward()


@pytest.mark.parametrize("backbone", ["llama", "qwen2"])
def test_export_loads_as_the_merged_model_and_its_residual(backbone, tmp_path):
    model, inputs = build_moka(backbone), batch(*LAYOUTS)
    original, before = weights(model), logits(model, inputs)
    tokens = generated(model, inputs)
    model.export(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(original, weights(model), strict=True))
    base = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    base.config.video_token_id, base.config.audio_token_id = VIDEO, AUDIO
    # A text has no media: the exported base alone answers it as the adapted model does.
    text = batch("ttqqt")
    question = text.pop("question_mask")
    torch.testing.assert_close(
        logits(base, text), logits(model, text | {"question_mask": question}), atol=1e-5, rtol=1e-4
    )
    loaded = PeftModel.from_pretrained(base, tmp_path / "moka").eval()
    torch.testing.assert_close(logits(loaded, inputs), before, atol=1e-5, rtol=1e-4)
    assert torch.equal(generated(loaded, inputs), tokens)
    with loaded.disable_adapter():
        expected = build_base(backbone)
        found = logits(loaded, inputs)
    del inputs["question_mask"]
    torch.testing.assert_close(found, logits(expected, inputs), atol=1e-5, rtol=1e-4)
    size = sum(file.stat().st_size for file in (tmp_path / "moka").glob("*.safetensors"))
    assert size < 0.5 * sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))


def test_export_writes_the_trained_modules_into_the_base(tmp_path):
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8}
    config = LlavaConfig(vision_config=vision, text_config=SHAPE | {"model_type": "llama"}, image_token_id=VIDEO)
    torch.manual_seed(0)
    base = LlavaForConditionalGeneration(config).eval()
    projector = "multi_modal_projector"
    model = randomise(get_peft_model(base, MokaConfig(dropout=0.0, modules_to_save=[projector]))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f"{projector}.modules_to_save" in name:
                parameter.add_(1)
    inputs = {
        "input_ids": torch.tensor([[VIDEO, VIDEO, VIDEO, VIDEO, 5, 6, 7]]),
        "pixel_values": torch.randn(1, 3, 16, 16),
    }
    before = model(**inputs).logits
    model.export(tmp_path)
    loaded = PeftModel.from_pretrained(
        LlavaForConditionalGeneration.from_pretrained(tmp_path), tmp_path / "moka"
    ).eval()
    torch.testing.assert_close(loaded(**inputs).logits, before, atol=1e-5, rtol=1e-4)


def test_bfloat16_is_rounded_once():
    model = build_moka().to(torch.bfloat16)
    layer = layers(model)[0]
    down, up = layer.moka_A["default"].weight[:4].double(), layer.moka_B["default"].weight.double()
    exact = layer.base_layer.weight.double() + 4 * up @ down
    model.merge_text()
    assert torch.equal(layer.base_layer.weight, exact.float().to(torch.bfloat16))


def test_what_cannot_be_merged(tmp_path):
    model = build_moka()
    with pytest.raises(ValueError, match="no adapter 'missing'"):
        model.merge_text(["missing"])
    original = weights(model)
    with torch.no_grad():
        layers(model)[-1].moka_B["default"].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="not finite"):
        model.merge_text()
    for old, new in zip(original, weights(model), strict=True):
        torch.testing.assert_close(new, old, atol=1e-6, rtol=1e-6)
    tied = get_peft_model(build_base(tie_word_embeddings=True), MokaConfig(target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="shares its weights with the input embeddings"):
        tied.merge_text()
    model = build_moka()
    layers(model)[0].base_layer.weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised"):
        model.merge_text()
    model = build_moka()
    model.add_adapter("other", MokaConfig(task_type="CAUSAL_LM"))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="writes one adapter"):
        model.export(tmp_path)


def test_a_full_merge_points_to_the_text_merge():
    with pytest.raises(NotImplementedError, match=r"merge_text\(\) .* export\(\)"):
        build_moka().merge_and_unload()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_in_float64_merging_changes_nothing(backbone):
    """Nothing but rounding tells the merged model from the other."""
    model, inputs = build_moka(backbone).double(), batch(*LAYOUTS)
    before = logits(model, inputs)
    model.merge_text()
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-12, rtol=1e-11)
