"""Projectors and adapters: saved, loaded in one call, refused when they do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from moka import MokaConfig
from moka.omni import (
    MokaOmniForConditionalGeneration,
    MokaOmniProcessor,
    checkpoints,
    load_adapter,
    load_projectors,
    save_projectors,
)
from tests.omni.conftest import QFORMER, Build, make_tokenizer, mixed_batch

Tamper = Callable[[dict[str, torch.Tensor]], None]


def train_a_little(model: torch.nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.fixture
def saved(build: Build, tmp_path: Path) -> tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor, Path]:
    """A model with trained projectors, saved with its processor."""
    model, processor = build()
    train_a_little(model)
    save_projectors(model, tmp_path / "stage1", processor)
    return model, processor, tmp_path / "stage1"


def test_projectors_come_back_and_nothing_else_is_written(build: Build, saved: tuple) -> None:
    model, processor, folder = saved
    other, _ = build()
    batch = mixed_batch(processor)
    assert not torch.equal(other(**batch).logits, model(**batch).logits)
    load_projectors(other, folder)
    assert torch.equal(other(**batch).logits, model(**batch).logits)
    names = load_file(folder / "projectors.safetensors")
    assert all(name.startswith(("vision_projector.", "audio_projector.")) for name in names)
    assert not list(folder.glob("model*"))


def test_loading_keeps_the_models_dtypes(build: Build, saved: tuple) -> None:
    model, _, folder = saved
    other, _ = build(dtype=torch.bfloat16)
    load_projectors(other, folder)
    query = other.model.vision_projector.resampler.query
    assert query.requires_grad
    assert torch.equal(query, model.model.vision_projector.resampler.query.bfloat16())


def remove(weights: dict[str, torch.Tensor]) -> None:
    del weights["audio_projector.norm.bias"]


def add(weights: dict[str, torch.Tensor]) -> None:
    weights["audio_projector.extra"] = torch.zeros(2)


def reshape(weights: dict[str, torch.Tensor]) -> None:
    weights["audio_projector.norm.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (remove, "lacks audio_projector.norm.bias"),
        (add, "has, beside the model's weights, audio_projector.extra"),
        (reshape, r"audio_projector.norm.bias has shape \(3,\), the model's \(16,\)"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_loaded(
    build: Build, saved: tuple, tamper: Tamper, message: str
) -> None:
    folder = saved[2]
    weights = load_file(folder / "projectors.safetensors")
    tamper(weights)
    save_file(weights, folder / "projectors.safetensors")
    other, _ = build()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_projectors(other, folder)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # Of the same shapes, and yet another function.
        ({"vision_projector": {**QFORMER, "num_heads": 4}}, "vision_projector=.*'num_heads': 2.*'num_heads': 4"),
        ({"vision_feature_layer": -1}, "vision_feature_layer=-2, the model has vision_feature_layer=-1"),
        ({"audio_tower": None}, "audio_projector=.*None"),
    ],
)
def test_projectors_of_another_kind_are_refused(build: Build, saved: tuple, options: dict, message: str) -> None:
    other, _ = build(**options)
    with pytest.raises(ValueError, match=message):
        load_projectors(other, saved[2])


def test_backbones_of_another_family_are_refused_although_they_fit(
    build: Build, saved: tuple, backbones: Path
) -> None:
    model, _ = build()
    model.config.text_config.model_type = "mistral"  # the same sizes
    with pytest.raises(ValueError, match="trained with text backbone 'llama', this one is 'mistral'"):
        load_projectors(model, saved[2])
    with pytest.raises(ValueError, match="trained with text backbone 'llama', this one is 'mistral'"):
        load_adapter(saved[2], language_model=str(backbones / "mistral"))


def test_folders_without_projectors_are_refused(build: Build, backbones: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no projectors\.safetensors"):
        load_projectors(build()[0], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_adapter(tmp_path)
    with pytest.raises(ValueError, match="of a 'llama' model, not of 'moka_omni'"):
        load_adapter(backbones / "llama")


def test_one_call_loads_projectors_with_their_backbones(saved: tuple) -> None:
    model, processor, folder = saved
    loaded, loaded_processor = load_adapter(folder)
    assert type(loaded) is MokaOmniForConditionalGeneration
    assert not loaded.training
    batch = mixed_batch(loaded_processor)
    assert torch.equal(loaded(**batch).logits, model(**mixed_batch(processor)).logits)
    half, _ = load_adapter(str(folder), dtype=torch.bfloat16, device="cpu")
    assert half.dtype == torch.bfloat16


def test_the_feature_layer_is_that_of_training(build: Build, tmp_path: Path) -> None:
    model, processor = build(vision_feature_layer=1)
    save_projectors(model, tmp_path, processor)
    loaded, _ = load_adapter(tmp_path)
    batch = mixed_batch(processor)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_backbones_may_have_moved(saved: tuple, backbones: Path, tmp_path: Path) -> None:
    model, processor, folder = saved
    config = json.loads((folder / "config.json").read_text())
    moved = {role: tmp_path / role for role in config["backbones"]}
    for role, path in moved.items():
        shutil.copytree(config["backbones"][role], path)
    config["backbones"] = {"language_model": "gone/away", "vision_tower": "gone/away", "audio_tower": None}
    (folder / "config.json").write_text(json.dumps(config))
    given = {role: str(path) for role, path in moved.items()}
    loaded, _ = load_adapter(folder, **given)
    batch = mixed_batch(processor)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded.config.backbones == given
    with pytest.raises(ValueError, match="does not tell the audio_tower"):
        load_adapter(folder, language_model=given["language_model"], vision_tower=given["vision_tower"])


def test_another_vocabulary_is_refused(saved: tuple, backbones: Path, tmp_path: Path) -> None:
    shutil.copytree(backbones / "llama", tmp_path / "lm")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["guitar"])
    tokenizer.save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match="image_token_id=24, but with this language model it is 25"):
        load_adapter(saved[2], language_model=str(tmp_path / "lm"))


def test_a_tower_the_model_never_had_is_refused(build: Build, backbones: Path, tmp_path: Path) -> None:
    model, processor = build(audio_tower=None)
    save_projectors(model, tmp_path, processor)
    loaded, _ = load_adapter(tmp_path)
    assert loaded.model.audio_tower is None
    with pytest.raises(ValueError, match=r"audio_tower=.*trained without one"):
        load_adapter(tmp_path, audio_tower=str(backbones / "ast"))


@pytest.fixture
def adapted(build: Build, tmp_path: Path) -> tuple[PeftModel, MokaOmniProcessor, Path]:
    """A model with a trained MokA adapter and projectors, saved as training does."""
    model, processor = build("qwen2")
    config = MokaConfig(r=2, modules_to_save=["vision_projector", "audio_projector"], task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config).eval()
    train_a_little(peft_model)
    folder = tmp_path / "stage2"
    peft_model.save_pretrained(folder)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return peft_model, processor, folder


def test_one_call_loads_an_adapter_with_its_projectors(adapted: tuple) -> None:
    model, processor, folder = adapted
    loaded, loaded_processor = load_adapter(folder)
    assert isinstance(loaded, PeftModel)
    batch = mixed_batch(loaded_processor)
    question = batch["mm_token_type_ids"] == 0
    expected = model(**batch, question_mask=question).logits
    assert torch.equal(loaded(**batch, question_mask=question).logits, expected)
    with loaded.disable_adapter():
        assert not torch.allclose(loaded(**batch, question_mask=question).logits, expected)
    options = {"max_new_tokens": 4, "question_mask": question}
    tokens = loaded.generate(**batch, **options)
    assert torch.equal(tokens, model.generate(**mixed_batch(processor), **options))
    assert torch.equal(tokens, loaded.generate(**batch, **options, use_cache=False))


def test_a_peft_model_trains_adapter_and_projectors_only(build: Build) -> None:
    model, processor = build()
    config = MokaConfig(r=2, modules_to_save=["vision_projector", "audio_projector"], task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config).train()
    assert not model.model.vision_tower.training
    assert model.model.language_model.training
    batch = mixed_batch(processor)
    labels = batch["input_ids"].masked_fill(torch.arange(batch["input_ids"].shape[1]) < 19, -100)
    peft_model(**batch, labels=labels).loss.backward()
    for name, parameter in peft_model.named_parameters():
        trained = "moka_" in name or ("_projector" in name and "modules_to_save" in name)
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name


@pytest.mark.parametrize(
    ("change", "message"), [("drop", "lacks 1 weights, such as"), ("add", "has, beside .* weights")]
)
def test_an_incomplete_adapter_is_refused(adapted: tuple, change: str, message: str) -> None:
    folder = adapted[2]
    weights = load_file(folder / checkpoints.ADAPTER)
    name = next(name for name in weights if "moka_A" in name)
    weight = weights.pop(name) if change == "drop" else weights[name]
    if change == "add":
        weights[name.replace("layers.0", "layers.9")] = weight.clone()
    save_file(weights, folder / checkpoints.ADAPTER)
    with pytest.raises(ValueError, match=message):
        load_adapter(folder)
    (folder / checkpoints.ADAPTER).unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json but no adapter_model\.safetensors"):
        load_adapter(folder)


def test_hub_folders_are_downloaded_without_pickles_or_code(saved: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(saved[2])

    monkeypatch.setattr(checkpoints, "snapshot_download", snapshot_download)
    loaded, _ = load_adapter("someone/adapter")
    assert type(loaded) is MokaOmniForConditionalGeneration
    patterns = asked["someone/adapter"]
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith(("bin", "py", "pt", "*")) for pattern in patterns)
