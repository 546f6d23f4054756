"""MokaLinear against the oracle, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moka.adapter import MokaConfig, MokaLinear, moka_delta
from moka.adapter.router import Router
from moka.adapter.routing import build_routing


def make_layer(config, in_features=7, out_features=5, dtype=torch.float32):
    torch.manual_seed(0)
    router = Router()
    layer = MokaLinear(nn.Linear(in_features, out_features).to(dtype), "default", config, router)
    nn.init.normal_(layer.moka_B["default"].weight)
    return layer, router


def run_layer(layer, router, x, ids, question, config):
    with router.use({"default": build_routing(ids, None, question, config)}):
        return layer(x)


def oracle(layer, x, slots, question, config):
    down = layer.moka_A["default"].weight.unflatten(0, (len(config.modalities), config.r))
    up = layer.moka_B["default"].weight
    delta = moka_delta(
        x,
        down,
        up,
        slots,
        question,
        scaling=config.scaling,
        cross_weight=config.cross_weight,
        scale_before_attention=config.scale_before_attention,
    )
    return layer.base_layer(x) + delta


@st.composite
def routed_batches(draw):
    """Modality codes 0..3 or -1 and question masks; every sample with media has a question."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    codes = [[draw(st.sampled_from([-1, 0, 0, 1, 2, 3])) for _ in range(length)] for _ in range(batch)]
    question = [[draw(st.booleans()) for _ in range(length)] for _ in range(batch)]
    for row, marks in zip(codes, question, strict=True):
        where = draw(st.integers(0, length - 1))
        row[where], marks[where] = 0, True
    return torch.tensor(codes), torch.tensor(question)


@given(
    routed=routed_batches(),
    rank=st.integers(1, 4),
    cross_weight=st.sampled_from([0.0, 0.3, 1.0]),
    before=st.booleans(),
    rslora=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_layer_equals_oracle_forward_and_backward(routed, rank, cross_weight, before, rslora):
    codes, question = routed
    config = MokaConfig(
        r=rank, alpha=8, dropout=0.0, cross_weight=cross_weight, scale_before_attention=before, use_rslora=rslora
    )
    slots = torch.tensor([-1, 0, 1, 1, 2])[codes + 1]
    layer, router = make_layer(config)
    x = torch.randn(*codes.shape, 7, requires_grad=True)
    ours = run_layer(layer, router, x, codes, question, config)
    expected = oracle(layer, x, slots, question, config)
    torch.testing.assert_close(ours, expected)
    leaves = [x, layer.moka_A["default"].weight, layer.moka_B["default"].weight]
    cotangent = torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad(ours, leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_scale_before_attention_changes_the_result():
    codes, question = torch.tensor([[1, 3, 0, 0]]), torch.tensor([[False, False, True, True]])
    x = torch.randn(1, 4, 7)
    outputs = []
    for before in (False, True):
        config = MokaConfig(r=2, dropout=0.0, scale_before_attention=before)
        layer, router = make_layer(config)
        outputs.append(run_layer(layer, router, x, codes, question, config))
    assert not torch.allclose(outputs[0][:, :2], outputs[1][:, :2])
    torch.testing.assert_close(outputs[0][:, 2:], outputs[1][:, 2:])


@pytest.mark.parametrize(
    "modalities",
    [
        {"text": [0], "media": [1, 2, 3]},
        {"text": [0], "image": [1], "video": [2], "audio": [3], "point_cloud": [4]},
        {"audio": [3], "text": [0], "visual": [2, 1]},
    ],
)
def test_any_number_of_slots_in_any_order(modalities):
    config = MokaConfig(r=3, dropout=0.0, modalities=modalities)
    codes = torch.tensor([[0, 1, 2, 3, 0, max(code for held in modalities.values() for code in held)]])
    question = codes == 0
    order = sorted(modalities.values(), key=min)
    slots = torch.tensor([[next(i for i, held in enumerate(order) if int(c) in held) for c in codes[0]]])
    layer, router = make_layer(config)
    x = torch.randn(1, 6, 7)
    torch.testing.assert_close(
        run_layer(layer, router, x, codes, question, config), oracle(layer, x, slots, question, config)
    )


def test_absent_modality_still_gives_the_stack_a_gradient():
    config = MokaConfig(r=2, dropout=0.0)
    layer, router = make_layer(config)
    codes = torch.zeros(2, 4, dtype=torch.long)
    run_layer(layer, router, torch.randn(2, 4, 7), codes, codes.bool(), config).sum().backward()
    gradient = layer.moka_A["default"].weight.grad
    assert gradient is not None
    assert gradient[:2].abs().sum() > 0
    assert gradient[2:].abs().sum() == 0


def test_dropout_acts_once_on_x_and_only_in_training():
    config = MokaConfig(r=2, dropout=0.5)
    layer, router = make_layer(config)
    codes, question = torch.tensor([[2, 0, 0]]), torch.tensor([[False, True, True]])
    x = torch.randn(1, 3, 7)
    routing = {"default": build_routing(codes, None, question, config)}
    with router.use(routing):
        torch.manual_seed(3)
        trained = layer.train()(x)
        torch.manual_seed(3)
        dropped = nn.functional.dropout(x, 0.5)
        evaluated = layer.eval()(x)
        base = layer.base_layer(x)
        expected = base + layer(dropped) - layer.base_layer(dropped)
    torch.testing.assert_close(trained, expected)
    assert not torch.allclose(trained, evaluated)


def test_bfloat16_base_with_float32_adapter():
    config = MokaConfig(r=2, dropout=0.0)
    layer, router = make_layer(config, dtype=torch.bfloat16)
    layer.moka_A.float()
    layer.moka_B.float()
    codes, question = torch.tensor([[2, 3, 0, 0]]), torch.tensor([[False, False, True, True]])
    x = torch.randn(1, 4, 7, dtype=torch.bfloat16)
    ours = run_layer(layer, router, x, codes, question, config)
    assert ours.dtype == torch.bfloat16
    slots = torch.tensor([[1, 2, 0, 0]])
    expected = oracle(layer.float(), x.float(), slots, question, config)
    torch.testing.assert_close(ours.float(), expected, rtol=0.02, atol=0.05)


def test_layer_outside_a_forward_is_an_error():
    layer, _ = make_layer(MokaConfig(r=2))
    with pytest.raises(RuntimeError, match="outside a forward"):
        layer(torch.randn(1, 3, 7))


def test_layer_with_another_sequence_is_an_error():
    config = MokaConfig(r=2)
    layer, router = make_layer(config)
    codes = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"input of shape \(4, 2, 7\)"):
        run_layer(layer, router, torch.randn(4, 2, 7), codes, codes.bool(), config)


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"r": 0}, "r must be"),
            ({"dropout": 1.0}, "dropout"),
            ({"cross_weight": float("nan")}, "cross_weight"),
            ({"modalities": {"visual": [1]}}, "holds the id 0"),
            ({"modalities": {"text": [0], "visual": [0, 1]}}, "more than one slot"),
            ({"modalities": {"text": [0], "visual": []}}, "needs ids"),
            ({"modalities": {"text": [0], "visual": [-1]}}, "0 or above"),
        ],
    )
    def test_bad_values_are_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            MokaConfig(**change)

    def test_scaling(self):
        assert MokaConfig(r=4, alpha=16).scaling == 4
        assert MokaConfig(r=4, alpha=16, use_rslora=True).scaling == 8
