"""The authors' projectors as ours."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from moka.omni.reference import projector_from_reference

FORWARD, GRADIENT = 1e-5, 1e-4  # relative to the largest reference value


@pytest.fixture(params=["vl", "al"])
def case(request, shared):
    path = shared / "golden" / "qformer" / f"share_{request.param}.safetensors"
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    return load_file(path), meta


def weights_of(tensors):
    return {n.removeprefix("state_dict."): t for n, t in tensors.items() if n.startswith("state_dict.")}


def assert_close(ours, reference, tolerance):
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


def test_outputs_and_gradients_are_the_authors(case):
    tensors, meta = case
    projector = projector_from_reference(weights_of(tensors), num_heads=meta["bert_config"]["num_attention_heads"])
    features = tensors["input"].clone().requires_grad_()
    tokens = meta["init_kwargs"].get("image_token_nums", tensors["input"].shape[-2])
    groups = features.reshape(-1, tokens, features.shape[-1])
    output = projector(groups).reshape(tensors["output"].shape)
    assert_close(output, tensors["output"], FORWARD)
    (output * tensors["G"]).sum().backward()
    assert_close(features.grad, tensors["grad.input"], GRADIENT)
    theirs = {n.removeprefix("grad."): t for n, t in tensors.items() if n.startswith("grad.") and n != "grad.input"}
    # Rename the reference's gradients as weights are renamed.
    filled = {n: theirs.get(n, torch.zeros_like(t, dtype=torch.float32)) for n, t in weights_of(tensors).items()}
    expected = projector_from_reference(filled, num_heads=4).state_dict()
    largest = max(t.abs().max() for t in theirs.values())
    for name, parameter in projector.named_parameters():
        assert expected[name].abs().max() > 0 or ".key.bias" in name
        assert (parameter.grad - expected[name]).abs().max() <= GRADIENT * max(
            expected[name].abs().max(), 1e-3 * largest
        )
    unused = set(meta["parameters_without_gradient"])
    assert len(theirs) == len(list(projector.parameters())) == len(set(meta["named_parameters"]) - unused)


def test_weights_that_do_not_fit(case):
    tensors, meta = case
    weights = weights_of(tensors)
    kind = "visual" if meta["kind"] == "vl" else "audio"
    bias = f"{kind}_proj.0.bias"
    for changed, message in (
        ({n: t for n, t in weights.items() if n != bias}, r"missing: mlp\.0\.bias$"),
        ({n: t for n, t in weights.items() if n != f"{kind}_ln.weight"}, r"missing: norm\.weight"),
        (weights | {"extra.weight": torch.zeros(1)}, r"unknown: extra\.weight$"),
        (
            weights | {f"{kind}_Qformer.bert.pooler.bias": torch.zeros(1)},
            "unknown: .*_Qformer.bert.pooler.bias$",
        ),
        (weights | {bias: torch.zeros(3)}, f"of another shape: {bias}$"),
        ({n: t for n, t in weights.items() if not n.endswith("query_tokens")}, "found none"),
        (weights | {"visual_query_tokens": torch.zeros(1), "audio_query_tokens": torch.zeros(1)}, "found "),
        (weights | {f"{kind}_query_tokens": torch.zeros(2)}, r"query_tokens has shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            projector_from_reference(changed, num_heads=4)
