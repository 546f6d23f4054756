"""The projector: what it computes, and that everything in it is trained."""

import pytest
import torch
from torch.nn import functional as F

from moka.omni import MokaProjector, MokaProjectorConfig
from moka.omni.modeling import QUERY_STD

ENCODER_WIDTH, LANGUAGE_WIDTH = 12, 20


def make(kind: str) -> MokaProjector:
    torch.manual_seed(0)
    config = MokaProjectorConfig(type=kind, num_queries=4, hidden_size=8, num_heads=2, intermediate_size=16)
    projector = MokaProjector(config, ENCODER_WIDTH, LANGUAGE_WIDTH)
    if kind == "qformer":
        torch.nn.init.normal_(projector.resampler.query, std=QUERY_STD)
    return projector


@pytest.mark.parametrize(("kind", "tokens"), [("qformer", 4), ("mlp", 7)])
def test_tokens_per_item(kind: str, tokens: int) -> None:
    assert make(kind)(torch.randn(3, 7, ENCODER_WIDTH)).shape == (3, tokens, LANGUAGE_WIDTH)


@pytest.mark.parametrize("kind", ["qformer", "mlp"])
def test_items_are_projected_apart(kind: str) -> None:
    projector, features = make(kind).eval(), torch.randn(3, 7, ENCODER_WIDTH)
    apart = torch.cat([projector(one[None]) for one in features])
    torch.testing.assert_close(projector(features), apart)


def test_the_mlp_projector_is_norm_and_two_linear_layers() -> None:
    projector, features = make("mlp"), torch.randn(2, 5, ENCODER_WIDTH)
    first, _, second = projector.mlp
    normed = F.layer_norm(features, (ENCODER_WIDTH,))
    expected = F.linear(F.gelu(F.linear(normed, first.weight, first.bias)), second.weight, second.bias)
    torch.testing.assert_close(projector(features), expected)


@pytest.mark.parametrize("kind", ["qformer", "mlp"])
def test_every_parameter_is_trained(kind: str) -> None:
    projector = make(kind)
    projector(torch.randn(2, 7, ENCODER_WIDTH)).square().sum().backward()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None, name
        # Softmax ignores what is added to every key alike.
        assert name.endswith("key.bias") or parameter.grad.abs().max() > 0, name


def test_every_layer_of_the_qformer_reads_the_encoder() -> None:
    projector = make("qformer")
    assert all(layer.has_cross_attention for layer in projector.resampler.qformer.encoder.layer)
    assert not any("intermediate.dense" in name or "embeddings" in name for name, _ in projector.named_parameters())


def test_features_of_another_precision_are_taken() -> None:
    projector, features = make("qformer").eval(), torch.randn(2, 7, ENCODER_WIDTH).bfloat16()
    torch.testing.assert_close(projector(features), projector(features.float()))
    assert projector.bfloat16()(features.float()).dtype == torch.bfloat16


def test_dropout_acts_in_training_only() -> None:
    features = torch.randn(2, 7, ENCODER_WIDTH)
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        config = MokaProjectorConfig(num_queries=4, hidden_size=8, num_heads=2, intermediate_size=16, dropout=dropout)
        projector = MokaProjector(config, ENCODER_WIDTH, LANGUAGE_WIDTH)
        torch.nn.init.normal_(projector.resampler.query, std=QUERY_STD)
        trained, evaluated = projector.train()(features), projector.eval()(features)
        assert torch.allclose(trained, evaluated) == (dropout == 0.0)


def test_impossible_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout=1\.0"):
        MokaProjectorConfig(dropout=1.0)
