"""Assembling: what is loaded as it was, what is added, and that the whole survives a save."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    ASTFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from moka.omni import (
    MokaOmniForConditionalGeneration,
    MokaOmniModel,
    MokaOmniProcessor,
    assemble,
)
from moka.omni import (
    backbones as loading,
)
from tests.omni.conftest import FAMILIES, QFORMER, SIZES, WORDS, Build, make_tokenizer, mixed_batch


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_model_is_unchanged(build: Build, backbones: Path, family: str) -> None:
    model, processor = build(family)
    original = AutoModelForCausalLM.from_pretrained(backbones / family)
    rows = original.get_input_embeddings().num_embeddings
    for name, weight in original.model.state_dict().items():
        ours = model.model.language_model.state_dict()[name]
        assert torch.equal(ours[:rows] if name == "embed_tokens.weight" else ours, weight), name
    assert torch.equal(model.lm_head.weight[:rows], original.lm_head.weight)
    texts = mixed_batch(processor, [{"text": "what is heard ?"}])
    length = texts["input_ids"].shape[1]
    with torch.no_grad():
        expected = original(texts["input_ids"], attention_mask=texts["attention_mask"]).logits
        assert torch.equal(model(**texts).logits[..., :rows], expected)
    assert length == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_split_as_by_the_saved_tokenizer(build: Build, family: str) -> None:
    processor = build(family)[1]
    text = "what is in the clip ?"
    assert processor.tokenizer(text).input_ids == make_tokenizer()(text).input_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_have_embeddings_and_new_rows_are_the_mean(build: Build, family: str) -> None:
    model, processor = build(family)
    old = FAMILIES[family][2].get("vocab_size", SIZES["vocab_size"])
    first = SIZES["vocab_size"]
    ids = [processor.image_token_id, processor.video_token_id, processor.audio_token_id]
    assert (
        ids
        == [first, first + 1, first + 2]
        == [
            model.config.image_token_id,
            model.config.video_token_id,
            model.config.audio_token_id,
        ]
    )
    rows = model.config.text_config.vocab_size
    assert rows == max(old, first + 3) == model.lm_head.out_features
    for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
        assert weight.shape[0] == rows
        for row in range(old, rows):
            torch.testing.assert_close(weight[row], weight[:old].mean(0))
    tied = FAMILIES[family][2].get("tie_word_embeddings", False)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied == model.config.tie_word_embeddings


def test_the_tokenizer_keeps_its_own_tokens(build: Build) -> None:
    tokenizer = build()[1].tokenizer
    assert "<|tool|>" in tokenizer.all_special_tokens
    assert tokenizer.convert_tokens_to_ids("<|tool|>") == 3
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("</s>", "left")
    ids = tokenizer("see<|video|><|video|> <|audio|>what").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["see", "<|video|>", "<|video|>", "<|audio|>", "what"]
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["see", "what"]


def test_an_own_padding_token_is_kept(backbones: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(backbones / "llama").save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<unk>"
    tokenizer.save_pretrained(tmp_path)
    model, processor = assemble(str(tmp_path))
    assert processor.tokenizer.pad_token == "<unk>"
    assert model.generation_config.pad_token_id == 0


def test_generation_follows_the_language_model(build: Build) -> None:
    model, processor = build()
    config = model.generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, [2, 3], 2)
    ids = [processor.image_token_id, processor.video_token_id, processor.audio_token_id]
    assert config.suppress_tokens == ids
    assert config.do_sample is False


def test_only_projectors_are_trainable_and_the_model_evaluates(build: Build) -> None:
    model, _ = build()
    trainable = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"vision_projector", "audio_projector"}
    assert not model.training
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])


def test_new_weights_come_from_torchs_seed_and_nothing_else(backbones: Path) -> None:
    def projectors(family: str, seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        clip = str(backbones / "clip")
        model, _ = assemble(str(backbones / family), clip, vision_projector={**QFORMER, "num_queries": 8})
        return model.model.vision_projector.state_dict()

    first, again, other = projectors("llama", 0), projectors("llama", 0), projectors("llama", 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["resampler.query"], other["resampler.query"])
    # The rows that llama's embeddings need and qwen2's do not draw no random numbers.
    padded = projectors("qwen2", 0)
    assert all(torch.equal(first[name], padded[name]) for name in first)
    query = first["resampler.query"]
    assert 0.01 < query.std() < 0.04
    assert query.std(1).min() > 0


def test_projectors_start_as_in_a_model_made_from_its_config(backbones: Path) -> None:
    sizes = {"num_queries": 16, "hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
    model, _ = assemble(str(backbones / "llama"), str(backbones / "clip"), vision_projector=sizes)
    fresh = MokaOmniForConditionalGeneration(model.config).model.vision_projector.state_dict()
    spreads = {name: value.std().item() for name, value in model.model.vision_projector.state_dict().items()}
    for name, spread in spreads.items():
        assert spread == pytest.approx(fresh[name].std().item(), rel=0.15), name
    assert spreads["mlp.0.weight"] == pytest.approx(SIZES["initializer_range"], rel=0.1)
    assert spreads["resampler.query"] == pytest.approx(0.02, rel=0.1)


@torch.no_grad()
def test_towers_inside_larger_checkpoints_are_the_same(build: Build) -> None:
    model, processor = build()
    batch = mixed_batch(processor)
    inside, _ = build(vision_tower="clip_full", audio_tower="ast_classifier")
    assert torch.equal(inside(**batch).logits, model(**batch).logits)


def test_mlp_projectors(build: Build) -> None:
    model, processor = build(vision_projector={"type": "mlp"}, audio_projector={"type": "mlp"})
    assert (processor.visual_tokens, processor.audio_tokens) == (4, 5)
    assert torch.isfinite(model(**mixed_batch(processor)).logits).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_model_comes_back(build: Build, tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    model, processor = build(family, dtype=dtype)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    batch = mixed_batch(AutoProcessor.from_pretrained(tmp_path))
    loaded, info = AutoModelForMultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is MokaOmniForConditionalGeneration
    assert not any(info.values())
    assert loaded.dtype == dtype
    for part in ("text_config", "vision_config", "audio_config"):
        assert getattr(loaded.config, part).to_diff_dict() == getattr(model.config, part).to_diff_dict()
    for name in ("image_token_id", "backbones", "vision_feature_layer", "tie_word_embeddings", "visual_tokens"):
        assert getattr(loaded.config, name) == getattr(model.config, name), name
    assert loaded.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert torch.equal(loaded.generate(**batch, max_new_tokens=4), model.generate(**batch, max_new_tokens=4))


def test_auto_classes(build: Build, tmp_path: Path) -> None:
    model, processor = build(audio_tower=None)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is MokaOmniForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(tmp_path)) is MokaOmniProcessor
    trunk = AutoModel.from_pretrained(tmp_path)
    assert type(trunk) is MokaOmniModel
    assert trunk.audio_tower is None
    batch = mixed_batch(processor, [{"text": "is"}])
    torch.testing.assert_close(model.lm_head(trunk(**batch).last_hidden_state), model(**batch).logits)


def test_generated_models_are_saved_by_name_not_by_path(
    build: Build, backbones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "locate", lambda name: str(backbones / name.removeprefix("moka-tiny/")))
    model, processor = assemble("moka-tiny/llama", "moka-tiny/clip", "moka-tiny/ast")
    assert model.config.backbones == {
        "language_model": "moka-tiny/llama",
        "vision_tower": "moka-tiny/clip",
        "audio_tower": "moka-tiny/ast",
    }
    assert model.name_or_path == "moka-tiny/llama"
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.json"):
        assert str(backbones) not in file.read_text(), file.name


@pytest.mark.parametrize("key", ["num_querys", "dtype"])
def test_unknown_projector_fields_are_refused(backbones: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"vision_projector: unknown field '{key}'.*num_queries"):
        assemble(str(backbones / "llama"), str(backbones / "clip"), vision_projector={key: 3})


def test_other_families_are_refused(backbones: Path, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=30)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'gpt2', which cannot be the language model; use one of llama"):
        assemble(str(tmp_path))
    with pytest.raises(ValueError, match="cannot be the vision tower"):
        assemble(str(backbones / "llama"), str(backbones / "ast"))
    with pytest.raises(ValueError, match="cannot be the audio tower"):
        assemble(str(backbones / "llama"), None, str(backbones / "clip"))


def test_a_tokenizer_without_end_is_refused(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no eos_token"):
        assemble(str(tmp_path))


def test_wide_frames_are_squeezed_not_cropped(backbones: Path, tmp_path: Path) -> None:
    CLIPVisionModel.from_pretrained(backbones / "clip").save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil().save_pretrained(tmp_path / "clip")
    _, processor = assemble(str(backbones / "llama"), str(tmp_path / "clip"))
    frame = np.zeros((1, 32, 128, 3), np.uint8)
    frame[:, :, :16] = frame[:, :, -16:] = 255
    (pixels,) = processor.process_images(frame)
    assert pixels.shape == (3, 16, 16)
    assert pixels[:, :, 0].min() > pixels[:, :, 8].max() + 1
    assert pixels[:, :, -1].min() > pixels[:, :, 8].max() + 1


def test_the_feature_extractor_must_fit_its_tower(backbones: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(backbones / "ast").save_pretrained(tmp_path / "ast")
    ASTFeatureExtractor().save_pretrained(tmp_path / "ast")
    with pytest.raises(ValueError, match=r"makes \(frames, mel bins\) \(1024, 128\), its encoder takes \(48, 16\)"):
        assemble(str(backbones / "llama"), None, str(tmp_path / "ast"))


def test_a_tokenizer_larger_than_the_embeddings(tmp_path: Path) -> None:
    sizes = {**SIZES, "vocab_size": len(WORDS) - 2}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model, processor = assemble(str(tmp_path))
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == sizes["vocab_size"]
