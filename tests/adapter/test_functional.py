"""The oracle against the authors' numbers and its own errors."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from moka.adapter import moka_delta

AVT_CASES = ["basic_nobias", "bias_audio_first", "missing_modality", "prefill_test"]
VT_CASES = ["vt_basic", "vt_gap_missing"]
FORWARD, GRADIENT = 1e-5, 1e-4  # relative to the largest reference value


def load(shared, case):
    path = shared / "golden" / "moka_layer" / f"share_{case}.safetensors"
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    return load_file(path), meta


def slots(tensors, *media):
    """Slot ids from the reference's masks: 0 text, then media in order, -1 elsewhere."""
    ids = torch.full(tensors["x"].shape[:2], -1)
    for slot, name in enumerate(("text", *media)):
        ids[tensors[f"mask_{name}"].reshape(ids.shape).bool()] = slot
    return ids, tensors["mask_question"].reshape(ids.shape).bool()


def assert_close(ours, reference, tolerance):
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


def audio_visual_delta(tensors, meta):
    ids, question = slots(tensors, "video", "audio")
    leaves = {name: tensors[name].clone().requires_grad_() for name in ("x", "A0", "A1", "A2", "B")}
    down = torch.stack([leaves["A0"], leaves["A1"], leaves["A2"]])
    delta = moka_delta(
        leaves["x"],
        down,
        leaves["B"],
        ids,
        question,
        scaling=meta["lora_alpha"] / meta["r"],
        cross_weight=meta["blc_weight"],
        scale_before_attention=True,
    )
    base = leaves["x"] @ tensors["W"].T + tensors.get("bias", 0)
    return base + delta, leaves


@pytest.mark.parametrize("case", AVT_CASES)
def test_matches_the_audio_visual_reference(shared, case):
    tensors, meta = load(shared, case)
    y, leaves = audio_visual_delta(tensors, meta)
    assert_close(y, tensors["y"], FORWARD)
    (y * tensors["G"]).sum().backward()
    for name, leaf in leaves.items():
        assert_close(leaf.grad, tensors[f"grad_{name}"], GRADIENT)


def test_interrupted_question_differs_by_the_reference_s_zero_keys(shared):
    """The authors slice first..last question token: tokens between become zero keys. Ours gathers exactly."""
    tensors, meta = load(shared, "question_gap")
    ids, question = slots(tensors, "video", "audio")
    ours, _ = audio_visual_delta(tensors, meta)
    gapped = [
        b for b in range(len(ids)) if not question[b, question[b].nonzero()[0] : question[b].nonzero()[-1] + 1].all()
    ]
    assert gapped
    assert (ours - tensors["y"]).abs().max() > 0.01 * tensors["y"].abs().max()
    # The same keys plus one zero key for every token in the gap gives the authors' number.
    s, lam, r = meta["lora_alpha"] / meta["r"], meta["blc_weight"], meta["r"]
    z = torch.zeros(*ids.shape, r)
    for slot in range(3):
        z[ids == slot] = s * tensors["x"][ids == slot] @ tensors[f"A{slot}"].T
    for b in range(len(ids)):
        first, last = question[b].nonzero()[[0, -1]].flatten().tolist()
        keys = (z[b] * question[b].unsqueeze(1))[first : last + 1]
        attended = torch.softmax(z[b] @ keys.T / r**0.5, -1) @ keys
        z[b] = z[b] + lam * attended * (ids[b] > 0).unsqueeze(1)
    y = tensors["x"] @ tensors["W"].T + tensors.get("bias", 0) + z @ tensors["B"].T
    assert_close(y, tensors["y"], FORWARD)


@pytest.mark.parametrize("case", VT_CASES)
def test_matches_the_visual_text_reference(shared, case):
    tensors, meta = load(shared, case)
    ids, question = slots(tensors, "image")
    leaves = {name: tensors[name].clone().requires_grad_() for name in ("x", "A_text", "A_image", "B_text")}
    # Samples without a question skip the attention in that code; ours refuses them, so they are run apart.
    asks = (question & (ids == 0)).any(1)
    down = torch.stack([leaves["A_text"], leaves["A_image"]])
    kwargs = {"scaling": meta.get("scaling", meta["lora_alpha"] / meta["r"])}
    base = leaves["x"] @ tensors["W"].T + tensors.get("bias", 0)
    parts = []
    for b in range(len(ids)):
        weight = meta["attn_weight"] if asks[b] else 0.0
        row = slice(b, b + 1)
        parts.append(
            moka_delta(
                leaves["x"][row], down, leaves["B_text"], ids[row], question[row], cross_weight=weight, **kwargs
            )
        )
    y = base + torch.cat(parts)
    assert_close(y, tensors["y"], FORWARD)
    (y * tensors["G"]).sum().backward()
    for name, leaf in leaves.items():
        assert_close(leaf.grad, tensors[f"grad_{name}"], GRADIENT)


@pytest.mark.parametrize("case", ["decode_test", "vt_decode"])
def test_decoding_uses_the_text_path(shared, case):
    tensors, meta = load(shared, case)
    down, up = (tensors["A0"], tensors["B"]) if case == "decode_test" else (tensors["A_text"], tensors["B_text"])
    ids = torch.zeros(tensors["x"].shape[:2], dtype=torch.long)
    scaling = meta.get("scaling", meta["lora_alpha"] / meta["r"])
    delta = moka_delta(tensors["x"], down[None], up, ids, ids.bool(), scaling=scaling)
    y = tensors["x"] @ tensors["W"].T + tensors.get("bias", 0) + delta
    assert_close(y, tensors["y"], FORWARD)


class TestErrors:
    def arguments(self):
        return {
            "x": torch.randn(2, 5, 6),
            "A": torch.randn(2, 3, 6),
            "B": torch.randn(4, 3),
            "modality_ids": torch.tensor([[0, 0, 1, 1, -1], [0, 0, 0, 0, 0]]),
            "question_mask": torch.tensor([[True, True, False, False, False]] * 2),
        }

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("modality_ids", torch.zeros(2, 4, dtype=torch.long), r"modality_ids has shape \(2, 4\)"),
            ("question_mask", torch.zeros(1, 5, dtype=torch.bool), r"question_mask has shape \(1, 5\)"),
            ("question_mask", torch.zeros(2, 5), "dtype"),
            ("modality_ids", torch.full((2, 5), 2), r"holds \[2\]"),
            ("modality_ids", torch.full((2, 5), -2), r"holds \[-2\]"),
            ("A", torch.randn(2, 3, 7), "does not fit"),
            ("B", torch.randn(4, 2), "does not fit"),
            ("x", torch.randn(5, 6), "Expected x"),
            ("question_mask", torch.zeros(2, 5, dtype=torch.bool), "Sample 0 has 2 media tokens"),
        ],
    )
    def test_wrong_input_is_named(self, name, value, message):
        with pytest.raises(ValueError, match=message):
            moka_delta(**self.arguments() | {name: value})

    def test_no_question_is_fine_without_attention(self):
        arguments = self.arguments() | {"question_mask": torch.zeros(2, 5, dtype=torch.bool)}
        assert moka_delta(**arguments, cross_weight=0).shape == (2, 5, 4)
