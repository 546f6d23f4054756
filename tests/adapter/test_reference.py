"""The authors' adapter on a whole language model: their logits, losses, gradients and generated tokens."""

import json

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from moka.adapter.reference import adapter_from_reference

FORWARD, GRADIENT = 1e-5, 1e-4  # relative to the largest reference value
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SIZES += ("rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")


@pytest.fixture(params=["share_unified", "share_unified_mixed"])
def case(request, shared):
    folder = shared / "golden" / "unified"
    files = [load_file(folder / f"{request.param}.{part}.safetensors") for part in ("weights", "io")]
    return *files, json.loads((folder / f"{request.param}.json").read_text())


def under(tensors, prefix):
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def adapted(weights, io, meta, stage):
    """The authors' tiny LLaMA with the embeddings of the training or the inference process, and their adapter."""
    config = LlamaConfig(**{name: meta["llama_config"][name] for name in SIZES}, vocab_size=meta["vocab_after_resize"])
    model = LlamaForCausalLM(config)
    state = under(weights, "base_llama.")
    state |= {"model.embed_tokens.weight": io[f"{stage}.embed_tokens.weight"]}
    state |= {"lm_head.weight": io[f"{stage}.lm_head.weight"]}
    model.load_state_dict({name: value for name, value in state.items() if "rotary" not in name})
    config, adapter = adapter_from_reference(under(weights, "adapter_model.bin/"), meta["adapter_config"])
    model = get_peft_model(model, config)
    outcome = set_peft_model_state_dict(model, adapter)
    assert not outcome.unexpected_keys
    assert not [name for name in outcome.missing_keys if "moka" in name]
    return model.eval()


def routed(io, prefix):
    """Modality ids and question from the authors' masks."""
    masks = {kind: io[f"{prefix}.mask_{kind}"].squeeze(-1).bool() for kind in ("text", "video", "audio", "question")}
    ids = torch.full(masks["text"].shape, -1)
    for kind, code in (("text", 0), ("video", 2), ("audio", 3)):
        ids[masks[kind]] = code
    return {"modality_ids": ids, "question_mask": masks["question"]}


def assert_close(ours, reference, tolerance):
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


def test_training_forward_and_gradients(case):
    weights, io, meta = case
    model = adapted(weights, io, meta, "train")
    mask = io["train.attention_mask"]
    inputs = {name: io[f"train.{name}"] for name in ("inputs_embeds", "position_ids", "labels")}
    out = model(**inputs, attention_mask=mask, **routed(io, "train"))
    assert_close(out.logits[mask.bool()], io["train.logits"][mask.bool()], FORWARD)
    assert_close(out.loss.detach(), io["train.loss"], FORWARD)
    out.loss.backward()
    theirs = {name: value for name, value in under(io, "train.grad.").items() if "lora_" in name}
    _, expected = adapter_from_reference(theirs, meta["adapter_config"])
    ours = {name.replace(".default", ""): parameter for name, parameter in model.named_parameters() if "moka_" in name}
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(ours[name].grad, value, GRADIENT)


def test_generated_tokens(case):
    weights, io, meta = case
    model = adapted(weights, io, meta, "test")
    singles = [number for number, rows in enumerate(meta["test_batches"]) if len(rows) == 1]
    assert singles
    for number in singles:
        prefix = f"test.batch{number}"
        inputs = {"inputs_embeds": io[f"{prefix}.inputs_embeds"], **routed(io, prefix)}
        mask = io[f"{prefix}.prefill_attention_mask"]
        with torch.no_grad():
            logits = model(**inputs, attention_mask=mask).logits
        assert_close(logits, io[f"{prefix}.prefill_logits"], FORWARD)
        options = {"max_new_tokens": meta["new_tokens"], "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
        tokens = model.generate(**inputs, attention_mask=mask, **options)
        expected = io[f"{prefix}.generated_ids"][0, 1:]
        assert tokens[0].tolist() == expected[: tokens.shape[1]].tolist()
        assert not expected[tokens.shape[1] :].any()


def test_files_of_another_form():
    settings = {"r": 222, "lora_alpha": 4, "blc_weight": 1.0, "target_modules": ["q_proj"]}
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {name.format(part): torch.ones(2, 3) for part in ("A0", "A1", "A2")} | {
        name.format("B0"): torch.ones(5, 2)
    }
    config, converted = adapter_from_reference(weights, settings)
    assert (config.r, config.scaling, config.scale_before_attention) == (2, 2.0, True)
    assert [value.shape for value in converted.values()] == [(6, 3), (5, 2)]
    for changed, others, message in (
        ({}, {"r": 4}, "r is 4; .* one digit three times"),
        ({}, {"r": 248}, "r is 248"),
        ({name.format("A1"): None}, {}, "lacks .*lora_A1.weight"),
        ({name.format("A1"): torch.ones(3, 3)}, {}, "not those of rank 2"),
        ({name.format("B0"): torch.ones(5, 6)}, {}, "not those of rank 2"),
        ({name.format("A3"): torch.ones(2, 3)}, {}, "unknown .*lora_A3.weight"),
        (dict.fromkeys(weights), {}, "unknown none"),
    ):
        given = {key: value for key, value in (weights | changed).items() if value is not None}
        with pytest.raises(ValueError, match=message):
            adapter_from_reference(given, settings | others)
