"""Activation checkpointing must give the gradients of no checkpointing, in every order of forwards and backwards."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.adapter.conftest import BACKBONES, batch, build_moka

FIRST = ("ttvvvtaaqqqtyy", "vvtqqyy")
SECOND = ("aaaatqqqqtttyy", "ttvqqyy")  # same shape, other modality ids


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    assert len(ours) > 0
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def two_losses(model, order):
    """Two forwards before any backward, then the backwards in the given order."""
    losses = [
        model(**batch(*layouts, labels=True, question=False), use_cache=False).loss for layouts in (FIRST, SECOND)
    ]
    if order == "sum":
        sum(losses).backward()
    else:
        for index in order:
            losses[index].backward()
    return gradients(model)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("order", ["sum", (0, 1), (1, 0)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_are_unchanged(backbone, reentrant, order):
    expected = two_losses(build_moka(backbone).train(), order)
    model = build_moka(backbone).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_same(two_losses(model, order), expected)


def test_checkpointing_was_really_on():
    """Layers run again in the backward pass: count them, or the tests above prove nothing."""
    model = build_moka().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    runs = []
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
    layer.register_forward_hook(lambda *_: runs.append(1))
    loss = model(**batch(*FIRST, labels=True)).loss
    assert len(runs) == 1
    loss.backward()
    assert len(runs) == 2


def test_another_forward_in_between_does_not_matter():
    """An evaluation between the forward and the backward must not change the gradients."""
    expected_model = build_moka().train()
    expected_model(**batch(*FIRST, labels=True)).loss.backward()
    model = build_moka().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    loss = model(**batch(*FIRST, labels=True)).loss
    with torch.no_grad():
        model.eval()(**batch(*SECOND))
    model.train()
    loss.backward()
    assert_same(gradients(model), gradients(expected_model))


def test_foreign_checkpointing_is_refused_rather_than_wrong():
    """A hand-made checkpoint around a layer would recompute without ids: an error, not a wrong gradient."""
    model = build_moka().train()
    layer = model.get_base_model().model.layers[0]
    forward = layer.forward
    layer.forward = lambda hidden, **kw: checkpoint(lambda h: forward(h, **kw), hidden, use_reentrant=False)
    loss = model(**batch(*FIRST, labels=True)).loss
    with pytest.raises(RuntimeError, match="outside a forward"):
        loss.backward()


def test_torch_checkpoint_wrapper_is_replayed():
    """FSDP's activation checkpointing wraps layers in torch's CheckpointWrapper."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    expected = two_losses(build_moka().train(), "sum")
    model = build_moka().train()
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, LlamaDecoderLayer))
    ours = two_losses(model, "sum")
    assert_same({name.replace("_checkpoint_wrapped_module.", ""): g for name, g in ours.items()}, expected)
