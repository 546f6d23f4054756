"""MokA as a citizen of PEFT: targets, saving, loading, several adapters, and the errors a user meets."""

import json
import subprocess
import sys

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from moka.adapter import MokaConfig, MokaLayer
from tests.adapter.conftest import BACKBONES, SHAPE, VIDEO, batch, build_base, build_moka, randomise

INPUTS = batch("ttvvvtaaqqqt", "vvtqq", "ttqqq")


def logits(model, **inputs):
    with torch.no_grad():
        return model(**(inputs or INPUTS)).logits


def adapted(model):
    return [name for name, module in model.named_modules() if isinstance(module, MokaLayer)]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_default_targets_are_the_seven_projections(backbone):
    model = get_peft_model(build_base(backbone), MokaConfig())
    names = adapted(model)
    assert len(names) == 2 * 7
    assert {name.rsplit(".", 1)[1] for name in names} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }


def tiny_llava():
    from transformers import LlamaConfig

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**SHAPE), image_token_id=VIDEO)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


def test_encoders_are_never_adapted():
    model = get_peft_model(tiny_llava(), MokaConfig())
    assert len(adapted(model)) == 14
    assert all(".language_model." in name for name in adapted(model))
    with pytest.raises(ValueError, match=r"outside the language model .*vision_tower"):
        get_peft_model(tiny_llava(), MokaConfig(target_modules=["q_proj", "v_proj"]))


def test_works_on_an_unmodified_multimodal_model():
    model = randomise(get_peft_model(tiny_llava(), MokaConfig(dropout=0.0))).eval()
    inputs = batch("vvvvtqqt")
    inputs.pop("position_ids")
    pixels = torch.randn(1, 3, 8, 8)
    image_updates = logits(model, pixel_values=pixels, **inputs)
    as_text = logits(model, pixel_values=pixels, modality_ids=torch.zeros_like(inputs["input_ids"]), **inputs)
    assert (image_updates - as_text).abs().max() > 1e-3


def test_the_head_may_be_a_target():
    model = get_peft_model(build_base(), MokaConfig(target_modules=["lm_head", "q_proj"]))
    assert len(adapted(model)) == 3


def test_only_the_adapter_is_trainable():
    model = get_peft_model(build_base(), MokaConfig())
    assert all(("moka_" in name) == p.requires_grad for name, p in model.named_parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_save_and_load(backbone, tmp_path):
    config = MokaConfig(
        r=3,
        alpha=6,
        cross_weight=0.5,
        use_rslora=True,
        scale_before_attention=True,
        modalities={"zebra": [3], "text": [0], "antelope": [2, 1]},
        modules_to_save=["lm_head"],
        task_type="CAUSAL_LM",
    )
    model = randomise(get_peft_model(build_base(backbone), config), names=("moka_", "lm_head.modules_to_save")).eval()
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded = PeftModel.from_pretrained(build_base(backbone), tmp_path).eval()
    saved_config = loaded.peft_config["default"]
    for name in ("r", "alpha", "cross_weight", "use_rslora", "scale_before_attention", "modalities"):
        assert getattr(saved_config, name) == getattr(config, name), name
    assert list(saved_config.modalities) == ["text", "antelope", "zebra"]
    assert torch.equal(logits(loaded), logits(model))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_load_for_more_training(tmp_path):
    build_moka().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build_base(), tmp_path, is_trainable=True)
    assert all(("moka_" in name) == p.requires_grad for name, p in loaded.named_parameters())


def test_load_through_auto_class(tmp_path):
    base = build_base()
    base.save_pretrained(tmp_path / "base")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = randomise(get_peft_model(model, MokaConfig(dropout=0.0, task_type="CAUSAL_LM"))).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(model))


def test_a_fresh_process_needs_only_import_moka(tmp_path):
    build_moka().save_pretrained(tmp_path)
    load = f"PeftConfig.from_pretrained({str(tmp_path)!r})"
    code = f"import moka; from peft import PeftConfig; print(type({load}).__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "MokaConfig"


def test_unknown_weights_are_reported(tmp_path):
    model = build_moka()
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    from safetensors.torch import save_file

    first = sorted(weights)[0]
    save_file({name: w for name, w in weights.items() if name != first}, path)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        PeftModel.from_pretrained(build_base(), tmp_path)
    save_file(weights | {first: torch.zeros(2, 2)}, path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(build_base(), tmp_path)


def test_several_adapters(tmp_path):
    model = build_moka()
    one = logits(model)
    model.add_adapter(
        "other", MokaConfig(r=2, dropout=0.0, cross_weight=0.2, modalities={"text": [0], "media": [1, 2, 3]})
    )
    assert torch.equal(logits(model), one)
    model.set_adapter("other")
    randomise(model, seed=3, names=(".other.",))
    two = logits(model)
    assert not torch.allclose(one, two)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build_base(), tmp_path, adapter_name="default")
    again.load_adapter(tmp_path / "other", "other")
    assert torch.equal(logits(again.eval()), one)
    again.set_adapter("other")
    assert torch.equal(logits(again.eval()), two)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(logits(model), one)


def test_adapters_may_have_different_targets():
    model = randomise(get_peft_model(build_base(), MokaConfig(r=2, dropout=0.0, target_modules=["q_proj"]))).eval()
    one = logits(model)
    model.add_adapter("other", MokaConfig(r=2, dropout=0.0, target_modules=["v_proj"]))
    randomise(model, seed=3, names=(".other.",))
    model.set_adapter("other")
    two = logits(model)
    assert not torch.allclose(one, two)
    model.set_adapter("default")
    assert torch.equal(logits(model), one)


def test_fused_projections_are_adapted_by_default():
    """A model without the seven projections is adapted in all of its blocks' linear layers, never in part."""
    names = adapted(get_peft_model(Phi3ForCausalLM(Phi3Config(**SHAPE)), MokaConfig()))
    assert len(names) == 2 * 4
    assert {name.rsplit(".", 1)[1] for name in names} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def test_mixtures_of_experts_are_left_alone():
    """Shared experts too: they see a flattened list of tokens."""
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }
    names = adapted(get_peft_model(Qwen2MoeForCausalLM(Qwen2MoeConfig(**SHAPE | experts)), MokaConfig()))
    assert {name.rsplit(".", 1)[1] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_encoder_decoder_models_are_refused():
    config = T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        get_peft_model(T5ForConditionalGeneration(config), MokaConfig())


def test_two_adapters_at_once_add_up():
    """On the first layer's q projection the joint update is the sum of the two."""
    model = build_moka()
    model.add_adapter("other", MokaConfig(r=2, dropout=0.0))
    randomise(model, seed=3, names=(".other.",))
    updates = []
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
    handle = layer.register_forward_hook(lambda m, args, out: updates.append(out - m.base_layer(args[0])))
    for active in ("default", "other", ["default", "other"]):
        model.base_model.set_adapter(active)
        logits(model)
    handle.remove()
    torch.testing.assert_close(updates[0] + updates[1], updates[2])


def test_disable_and_enable(moka_model):
    base = build_base()
    inputs = {name: value for name, value in INPUTS.items() if name != "question_mask"}
    with moka_model.disable_adapter():
        assert torch.equal(logits(moka_model), logits(base, **inputs))
    assert not torch.allclose(logits(moka_model), logits(base, **inputs))


def test_unload_gives_the_base_model_back(moka_model):
    base = moka_model.unload()
    inputs = {name: value for name, value in INPUTS.items() if name != "question_mask"}
    assert not adapted(base)
    assert torch.equal(logits(base, **inputs), logits(build_base(), **inputs))
    assert not base._forward_pre_hooks
    assert not base._forward_hooks
    again = randomise(get_peft_model(base, MokaConfig(r=4, dropout=0.0))).eval()
    assert torch.equal(logits(again), logits(build_moka()))


def test_transformers_native_adapters(tmp_path):
    """`model.add_adapter(MokaConfig())`, without a PeftModel."""
    base = build_base()
    base.add_adapter(MokaConfig(r=4, dropout=0.0))
    expected = logits(build_moka())
    assert torch.equal(logits(randomise(base).eval()), expected)
    base.save_pretrained(tmp_path)
    again = build_base()
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits(again.eval()), expected)


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused(moka_model, call):
    before = logits(moka_model)
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        getattr(moka_model, call)()
    assert torch.equal(logits(moka_model), before)


def test_peft_config_json_is_plain(tmp_path):
    build_moka().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == "MOKA"
    assert saved["modalities"] == {"text": [0], "visual": [1, 2], "audio": [3]}
    assert PeftConfig.from_pretrained(tmp_path).modalities["visual"] == [1, 2]


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mm_token_type_ids": torch.zeros(3, 4, dtype=torch.long)}, r"shape \(3, 4\)"),
            ({"question_mask": torch.zeros(2, 12, dtype=torch.bool)}, r"question_mask has shape \(2, 12\)"),
            ({"mm_token_type_ids": torch.full((3, 12), 7)}, r"hold \[7\] \(first at row 0, token 0\)"),
            (
                {"question_mask": torch.zeros(3, 12, dtype=torch.bool)},
                r"Rows \[0, 1\] have media tokens but",
            ),
            ({"attention_mask": torch.ones(3, 5)}, r"attention_mask has shape \(3, 5\)"),
        ],
    )
    def test_wrong_routing_is_named(self, moka_model, change, message):
        with pytest.raises(ValueError, match=message):
            moka_model(**INPUTS | change)
        assert logits(moka_model).isfinite().all()

    def test_training_without_a_known_question(self, moka_model):
        moka_model.train()
        with pytest.raises(ValueError, match="cannot be told from the answer"):
            moka_model(**batch("vvtqq", question=False))
        assert moka_model(**batch("tttqq", question=False)).logits.isfinite().all()

    def test_labels_that_leave_no_question(self, moka_model):
        inputs = batch("vvqq", labels=True, question=False)
        inputs["labels"] = inputs["input_ids"]
        with pytest.raises(ValueError, match="no question tokens"):
            moka_model(**inputs)

    def test_embeddings_without_ids(self, moka_model):
        embeds = torch.randn(1, 3, 32)
        with pytest.raises(ValueError, match="does not tell media from text"):
            moka_model(inputs_embeds=embeds)

    def test_positional_input_ids(self, moka_model):
        base = moka_model.get_base_model()
        ids, mask = INPUTS["input_ids"], INPUTS["attention_mask"]
        positional = base(ids, mask, question_mask=INPUTS["question_mask"]).logits
        named = base(input_ids=ids, attention_mask=mask, question_mask=INPUTS["question_mask"]).logits
        assert torch.equal(positional, named)

    def test_targets_that_are_no_linear_layers(self):
        with pytest.raises(TypeError, match="embed_tokens"):
            get_peft_model(
                nn.ModuleDict({"embed_tokens": nn.Embedding(2, 2)}), MokaConfig(target_modules=["embed_tokens"])
            )

    def test_default_targets_need_a_language_model(self):
        with pytest.raises(ValueError, match="set MokaConfig"):
            get_peft_model(nn.Sequential(nn.Linear(2, 2)), MokaConfig())
