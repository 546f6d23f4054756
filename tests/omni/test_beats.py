"""BEATs against the authors' numbers, its official checkpoints' format, and its errors."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from moka.omni import BeatsConfig, BeatsFeatureExtractor, BeatsModel
from moka.omni.beats import relative_position_buckets

BIAS = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
TINY = {
    "embed_dim": 8,
    "encoder_embed_dim": 12,
    "encoder_ffn_embed_dim": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "conv_pos": 4,
    "conv_pos_groups": 2,
    "num_buckets": 8,
    "max_distance": 16,
}


def golden(shared, case):
    folder = shared / "golden" / "beats"
    return load_file(folder / f"{case}.safetensors"), json.loads((folder / f"{case}_cfg.json").read_text())


def official(path, tensors, cfg, **changes):
    """Write the authors' tensors as an official checkpoint, the shared table under every layer."""
    weights = {name.removeprefix("state_dict."): t for name, t in tensors.items() if name.startswith("state_dict.")}
    torch.save({"cfg": cfg, "model": weights | changes}, path)
    return path


def assert_close(ours, reference, tolerance=1e-5):
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("case", ["share_a", "share_b_noproj"])
def test_it_reproduces_the_authors_encoder(shared, tmp_path, case):
    tensors, cfg = golden(shared, case)
    model = BeatsModel.from_official(official(tmp_path / "beats.pt", tensors, cfg))
    seen = {}
    model.patch_embedding.register_forward_hook(lambda *args: seen.update(patch_embedding=args[-1]))
    model.encoder.register_forward_pre_hook(lambda *args: seen.update(after_proj=args[-1][0]))
    model.encoder.pos_conv.register_forward_hook(lambda *args: seen.update(pos_conv_out=args[-1].transpose(1, 2)))
    with torch.no_grad():
        features = model(tensors["fbank"].flatten(0, 1)).last_hidden_state
        assert_close(features.unflatten(0, tensors["fbank"].shape[:2]), tensors["features"])
        for name, value in seen.items():
            assert_close(value, tensors[name])
        assert_close(model.encoder.pos_conv[0].weight, tensors["pos_conv_weight_effective"])
        assert_close(model.encoder.position_bias(features.shape[1], features.device), tensors["position_bias_layer0"])
        if cfg["finetuned_model"]:
            assert_close(model.classify(features), tensors["predictor_probs"])
    sizes = {"num_buckets": cfg["num_buckets"], "max_distance": cfg["max_distance"]}
    assert torch.equal(relative_position_buckets(tensors["bucket_probe_rel"], **sizes), tensors["bucket_probe"])
    assert len(seen) == 3


@pytest.mark.parametrize("case", ["share_fbank_1s", "share_fbank_2s"])
def test_it_reproduces_kaldis_filter_bank(shared, case):
    tensors = load_file(shared / "golden" / "beats" / f"{case}.safetensors")
    extractor = BeatsFeatureExtractor(max_length=tensors["fbank"].shape[1])
    values = extractor(tensors["waveform"].numpy(), sampling_rate=16000, return_tensors="pt")["input_values"]
    # Kaldi works in float32; the golden data's own two precisions differ by as much.
    assert (values - tensors["fbank"]).abs().max() < 1e-3
    assert (values - tensors["fbank_float64"]).abs().max() < 1e-3


def literal_attention(attention, x, bias):
    """The formula, one query at a time."""
    heads, width = attention.heads, x.shape[-1] // attention.heads
    out = torch.zeros_like(x)
    for n in range(x.shape[0]):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            q, k, v = (layer(x[n])[:, part] for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
            for t in range(x.shape[1]):
                scores = k @ q[t] / width**0.5
                if bias is not None:
                    gate = torch.ones(())
                    if attention.is_gated:
                        eight = attention.grep_linear(q[t])
                        update, reset = eight[:4].sum().sigmoid(), eight[4:].sum().sigmoid()
                        gate = update * (reset * attention.grep_a[0, head, 0, 0] - 1) + 2
                    scores = scores + gate * bias[head, t]
                out[n, t, part] = scores.softmax(0) @ v
    return attention.out_proj(out)


@pytest.mark.parametrize("options", [{}, {"gru_rel_pos": False}, {"relative_position_embedding": False}])
@torch.no_grad()
def test_attention_is_its_formula(options):
    torch.manual_seed(0)
    model = BeatsModel(BeatsConfig(**TINY | options)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    attention, x = model.encoder.layers[1].self_attn, torch.randn(2, 6, 12)
    bias = model.encoder.position_bias(6, x.device)
    assert (bias is None) == (options == {"relative_position_embedding": False})
    torch.testing.assert_close(attention(x, bias), literal_attention(attention, x, bias), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"conv_pos": 3}, {"deep_norm": False}, {"layer_norm_first": True}, {"activation_fn": "relu"}]
)
@torch.no_grad()
def test_published_variants_are_their_formulas(options):
    torch.manual_seed(0)
    model = BeatsModel(BeatsConfig(**TINY | options)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    fbank = torch.randn(1, 39, 32)  # 39 frames: two patches, and seven that are not seen
    encoder = model.encoder
    patches = [
        (model.patch_embedding.weight[:, 0] * fbank[0, t : t + 16, f : f + 16]).sum((1, 2))
        for t in (0, 16)
        for f in (0, 16)
    ]
    x = model.post_extract_proj(model.layer_norm(torch.stack(patches)))[None]
    kernel = model.config.conv_pos
    convolved = torch.zeros_like(x)
    for t in range(4):
        for step in range(kernel):
            if 0 <= (source := t + step - kernel // 2) < 4:
                for group in range(2):
                    part = slice(6 * group, 6 * group + 6)
                    convolved[0, t, part] += encoder.pos_conv[0].weight[part, :, step] @ x[0, source, part]
    x = x + nn.functional.gelu(convolved + encoder.pos_conv[0].bias)
    x = x if model.config.layer_norm_first else encoder.layer_norm(x)
    bias = encoder.position_bias(4, x.device)
    weight = 4**0.25 if model.config.deep_norm else 1.0
    activation = torch.relu if model.config.activation_fn == "relu" else nn.functional.gelu
    for layer in encoder.layers:
        first, second = layer.self_attn_layer_norm, layer.final_layer_norm
        if model.config.layer_norm_first:
            x = x + literal_attention(layer.self_attn, first(x), bias)
            x = x + layer.fc2(activation(layer.fc1(second(x))))
        else:
            x = first(x * weight + literal_attention(layer.self_attn, x, bias))
            x = second(x * weight + layer.fc2(activation(layer.fc1(x))))
    x = encoder.layer_norm(x) if model.config.layer_norm_first else x
    torch.testing.assert_close(model(fbank).last_hidden_state, x, atol=1e-4, rtol=1e-4)


@given(st.integers(2, 40).map(lambda n: 4 * n), st.integers(41, 1000), st.integers(-2000, 2000))
def test_buckets_are_exact_near_and_keep_the_direction(num_buckets, max_distance, distance):
    def bucket(d):
        return relative_position_buckets(torch.tensor(d), num_buckets=num_buckets, max_distance=max_distance).item()

    half = num_buckets // 2
    assert 0 <= bucket(distance) < num_buckets
    assert bucket(abs(distance)) - bucket(-abs(distance)) == (half if distance else 0)
    if abs(distance) < half // 2:
        assert bucket(-abs(distance)) == abs(distance)
    assert bucket(-abs(distance) - 1) >= bucket(-abs(distance))
    assert bucket(-max_distance) == bucket(-10 * max_distance) == half - 1


def test_it_saves_and_loads_as_any_transformers_model(tmp_path):
    torch.manual_seed(0)
    model = BeatsModel(BeatsConfig(**TINY, finetuned_model=True, predictor_class=5)).eval()
    model.save_pretrained(tmp_path)
    BeatsFeatureExtractor(max_length=48).save_pretrained(tmp_path)
    again = BeatsModel.from_pretrained(tmp_path).eval()
    fbank = torch.randn(2, 48, 128)
    with torch.no_grad():
        assert torch.equal(again(fbank).last_hidden_state, model(fbank).last_hidden_state)
    extractor = BeatsFeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.max_length, extractor.mean) == (48, 15.41663)
    assert all(p.isfinite().all() and p.abs().sum() > 0 for n, p in model.named_parameters() if "weight" in n)


def test_windows_are_encoded_each_on_its_own():
    torch.manual_seed(0)
    model, fbank = BeatsModel(BeatsConfig(**TINY)).eval(), torch.randn(3, 64, 128)
    with torch.no_grad():
        together = model(fbank).last_hidden_state
        alone = torch.cat([model(row[None]).last_hidden_state for row in fbank])
    assert together.shape == (3, 4 * 8, 12)
    torch.testing.assert_close(together, alone)


def test_short_sound_is_filled_with_silence():
    extractor = BeatsFeatureExtractor(max_length=20)
    sound = np.random.default_rng(0).normal(size=1600).astype(np.float32) * 0.1
    (values,) = extractor([sound], sampling_rate=16000)["input_values"]
    assert values.shape == (20, 128)
    floor = (np.log(1.1920929e-07) - 15.41663) / (2 * 6.55582)
    np.testing.assert_allclose(values[10:], floor, rtol=1e-6)
    alone = BeatsFeatureExtractor(max_length=8)(sound, sampling_rate=16000)["input_values"][0]
    np.testing.assert_allclose(values[:8], alone, rtol=1e-5)


def test_what_cannot_be_encoded():
    extractor = BeatsFeatureExtractor(max_length=20)
    for sound, rate, message in (
        (np.zeros(1600), 8000, "8000 Hz"),
        (np.zeros((2, 1600, 2)), 16000, "one channel"),
        (np.zeros(16000), 16000, "16000 samples; 20 frames take 3440"),
    ):
        with pytest.raises(ValueError, match=message):
            extractor(sound, sampling_rate=rate)
    with pytest.raises(ValueError, match="BEATs takes 16000 Hz"):
        BeatsFeatureExtractor(sampling_rate=8000)
    model = BeatsModel(BeatsConfig(**TINY))
    for shape in ((48, 128), (1, 15, 128), (1, 48, 8)):
        with pytest.raises(ValueError, match="input_values have shape"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match="no classifier"):
        model.classify(torch.zeros(1, 4, 12))
    with pytest.raises(ValueError, match="'glu'"):
        BeatsConfig(activation_fn="glu")
    with pytest.raises(ValueError, match="no multiple of 5 heads"):
        BeatsConfig(encoder_attention_heads=5)


def test_checkpoints_that_do_not_fit(tmp_path):
    model = BeatsModel(BeatsConfig(**TINY))
    weights, cfg = model.state_dict(), {**TINY, "encoder_layerdrop": 0.05}
    table = weights[BIAS.format(0)]

    def load(**content):
        torch.save(content, tmp_path / "beats.pt")
        return BeatsModel.from_official(tmp_path / "beats.pt")

    loaded = load(cfg=cfg, model=weights | {BIAS.format(1): table.clone()})
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in weights.items())
    assert BeatsModel.from_official(tmp_path / "beats.pt", max_length=98).config.max_length == 98
    lacking = {name: value for name, value in weights.items() if name != "layer_norm.bias"}
    for content, message in (
        ({"model": weights}, "must hold 'cfg' and 'model'"),
        ({"cfg": cfg, "model": lacking}, r"missing: layer_norm\.bias$"),
        ({"cfg": cfg, "model": weights | {"more": table}}, "unknown: more$"),
        ({"cfg": cfg, "model": weights | {"layer_norm.bias": torch.zeros(3)}}, r"of another shape: layer_norm\.bias$"),
        ({"cfg": cfg, "model": weights | {BIAS.format(1): table + 1}}, "differs from the first layer's"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load(**content)
        assert str(error.value).startswith(str(tmp_path / "beats.pt"))


class Harmful:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    torch.save({"cfg": Harmful(), "model": {}}, tmp_path / "beats.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        BeatsModel.from_official(tmp_path / "beats.pt")
    assert "code ran" not in capsys.readouterr().out
