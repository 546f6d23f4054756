"""The forward: where features go, what padding and batching change (nothing), what is trained, what is refused."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from moka.omni import MokaOmniForConditionalGeneration, MokaOmniProcessor
from tests.omni.conftest import FAMILIES, SAMPLES, Build, frames, mixed_batch, sound

Omni = tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]


@pytest.fixture(scope="module")
def omni(build: Build) -> Omni:
    return build()


@pytest.fixture(scope="module", params=FAMILIES)
def any_family(request: pytest.FixtureRequest, build: Build) -> Omni:
    return build(request.param)


@torch.no_grad()
def test_features_replace_placeholders_in_order(any_family: Omni) -> None:
    model, processor = any_family
    batch = mixed_batch(processor)
    ids = batch["input_ids"]
    embeds = model.get_input_embeddings()(ids).clone()
    vision, audio, trunk = model.model.vision_tower, model.model.audio_tower, model.model
    for key, token, tower_name in (
        ("pixel_values", processor.image_token_id, "vision"),
        ("pixel_values_videos", processor.video_token_id, "vision"),
        ("input_features", processor.audio_token_id, "audio"),
    ):
        if tower_name == "vision":
            hidden = vision(batch[key], output_hidden_states=True).hidden_states[-2][:, 1:]
            features = trunk.vision_projector(hidden)
        else:
            features = trunk.audio_projector(audio(batch[key]).last_hidden_state[:, 2:])
        embeds[ids == token] = features.flatten(0, 1)
    expected = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
    actual = model(**batch)
    torch.testing.assert_close(actual.logits, expected.logits)
    torch.testing.assert_close(actual.audio_hidden_states, features)
    assert actual.image_hidden_states.shape[:2] == (1, 3)
    assert actual.video_hidden_states.shape[:2] == (2, 3)


@torch.no_grad()
def test_media_matter(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    before = model(**batch).logits[:, -1]
    for key, row in (("pixel_values", 1), ("pixel_values_videos", 0), ("input_features", 0)):
        after = model(**{**batch, key: batch[key].flip(-1)}).logits[:, -1]
        changed = (after - before).abs().amax(-1) > 1e-3
        assert changed.tolist() == [index == row for index in range(3)], key


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_the_vision_feature_layer_is_the_one_asked_for(build: Build, layer: int) -> None:
    model, processor = build(vision_feature_layer=layer)
    values = processor.process_images(frames(1))
    hidden = model.model.vision_tower(values, output_hidden_states=True).hidden_states[layer][:, 1:]
    expected = model.model.vision_projector(hidden)
    torch.testing.assert_close(model.model.get_image_features(values), expected)
    torch.testing.assert_close(model.model.get_video_features(values), expected)


@torch.no_grad()
def test_a_batch_equals_its_samples_alone(any_family: Omni) -> None:
    model, processor = any_family
    together = mixed_batch(processor)
    logits = model(**together).logits
    for row, sample in enumerate(SAMPLES):
        alone = mixed_batch(processor, [sample])
        length = alone["input_ids"].shape[1]
        torch.testing.assert_close(logits[row, -length:], model(**alone).logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_more_padding_changes_nothing(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    fill = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "mm_token_type_ids": 0}
    padded = {key: F.pad(batch[key], (5, 0), value=fill[key]) if key in fill else batch[key] for key in batch}
    length = batch["input_ids"].shape[1]
    valid = batch["attention_mask"].bool()
    difference = model(**padded).logits[:, -length:][valid] - model(**batch).logits[valid]
    assert difference.abs().max() < 1e-4


def test_the_loss_is_next_token_cross_entropy(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    labels = batch["input_ids"].masked_fill(torch.arange(batch["input_ids"].shape[1]) < 17, -100)
    output = model(**batch, labels=labels, question_mask=batch["mm_token_type_ids"] == 0)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    summed = model(**batch, labels=labels, num_items_in_batch=7).loss
    torch.testing.assert_close(summed, expected * (labels != -100).sum() / 7)


@torch.no_grad()
def test_logits_of_the_last_positions_only(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, model(**batch).logits[:, -2:])


@torch.no_grad()
def test_tuples_on_request(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    assert torch.equal(model(**batch, return_dict=False)[0], model(**batch).logits)


@pytest.mark.parametrize("kind", ["qformer", "mlp"])
def test_projectors_are_all_that_trains(build: Build, kind: str) -> None:
    options = {"type": kind, "num_queries": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
    model, processor = build(vision_projector=options, audio_projector=options)
    model.train()
    batch = mixed_batch(processor)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        if "_projector." in name:
            assert parameter.grad is not None, name
            assert name.endswith("key.bias") or parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name


def test_frozen_towers_stay_in_eval_mode_and_the_language_model_follows(build: Build) -> None:
    model, _ = build()
    trunk = model.model
    model.train()
    towers = (trunk.vision_tower, trunk.audio_tower)
    assert not any(module.training for tower in towers for module in tower.modules())
    assert all(module.training for part in (trunk.language_model, trunk.audio_projector) for module in part.modules())
    trunk.audio_tower.requires_grad_(True)
    model.train()
    assert trunk.audio_tower.layers[0].training
    assert not trunk.vision_tower.training
    model.eval()
    assert not any(module.training for module in model.modules())


def test_a_tower_is_trained_when_it_is_not_frozen(build: Build) -> None:
    model, processor = build()
    model.model.audio_tower.requires_grad_(True)
    batch = mixed_batch(processor)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert model.model.audio_tower.layers[0].mlp.fc1.weight.grad.abs().max() > 0
    assert model.model.vision_tower.embeddings.class_embedding.grad is None


def test_no_graph_is_kept_of_frozen_towers(build: Build) -> None:
    model, processor = build()
    # What transformers does for reentrant checkpointing: without no_grad the towers would be backpropagated through.
    model.enable_input_require_grads()
    batch = mixed_batch(processor)
    kept = []
    trunk = model.model
    for tower in (trunk.vision_tower, trunk.audio_tower):
        tower.register_forward_hook(lambda module, args, output: kept.append(output.last_hidden_state.requires_grad))
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert kept == [False] * 3
    assert trunk.vision_projector.norm.weight.grad.abs().max() > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(build: Build, reentrant: bool) -> None:
    model, processor = build()
    batch = mixed_batch(processor)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model.train()
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    checkpointed = gradients()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_bf16(build: Build) -> None:
    model, processor = build(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = mixed_batch(processor)
    half = model(**batch).logits
    assert half.dtype == torch.bfloat16
    full = model.float()(**batch).logits
    valid = batch["attention_mask"].bool()
    assert F.cosine_similarity(half[valid].float(), full[valid], dim=-1).min() > 0.98


def test_float32_projectors_on_a_bf16_model(build: Build) -> None:
    model, processor = build(dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    batch = mixed_batch(processor)
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert model.model.vision_projector.norm.weight.grad.dtype == torch.float32


def drop(batch: Any, *keys: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key not in keys}


def test_counts_that_do_not_match_are_named(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    with pytest.raises(ValueError, match=r"6 video placeholders \(row 0: 6\) but pixel_values_videos was not passed"):
        model(**drop(batch, "pixel_values_videos"))
    extra = batch["input_features"].repeat(2, 1, 1)
    with pytest.raises(ValueError, match=r"holds 6 items of 3 tokens, so 18 audio .* has 9 \(row 0: 9\)"):
        model(**{**batch, "input_features": extra})
    cut = {key: batch[key][:, :-5] if batch[key].ndim == 2 else batch[key] for key in batch}
    cut["input_ids"] = batch["input_ids"].clone()[:, :-5]
    cut["input_ids"][1, -1] = processor.image_token_id
    with pytest.raises(ValueError, match=r"row 1 has .* image placeholders, which is not a multiple of the 3"):
        model(**cut)


def test_media_need_input_ids(omni: Omni) -> None:
    model, processor = omni
    batch = mixed_batch(processor)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(
        ValueError, match="pixel_values, pixel_values_videos, input_features passed with inputs_embeds"
    ):
        model(inputs_embeds=embeds, **drop(batch, "input_ids"))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(inputs_embeds=embeds, **batch)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


SOUND_ONLY = {"text": "hear <|audio|>", "audio": [sound(2, 3)]}
VIDEO_ONLY = {"text": "see <|video|>", "videos": [frames(1, 2)]}


@torch.no_grad()
@pytest.mark.parametrize(
    ("absent", "taken", "refused", "argument"),
    [
        ("audio_tower", VIDEO_ONLY, SOUND_ONLY, "input_features"),
        ("vision_tower", SOUND_ONLY, VIDEO_ONLY, "pixel_values_videos"),
    ],
)
def test_a_model_with_one_tower(
    build: Build, omni: Omni, absent: str, taken: dict, refused: dict, argument: str
) -> None:
    model, processor = build(**{absent: None})
    assert torch.isfinite(model(**mixed_batch(processor, [taken])).logits).all()
    assert not any(name.startswith(f"model.{absent.split('_')[0]}") for name in model.state_dict())
    assert model.get_encoder("audio" if absent == "audio_tower" else "video") is None
    with pytest.raises(ValueError, match=f"{argument} was passed, but this model has no {absent}"):
        model(**mixed_batch(omni[1], [refused]))


def test_parts_are_found_by_transformers_names(omni: Omni) -> None:
    model, _ = omni
    assert model.get_decoder() is model.model.language_model
    assert model.get_encoder("audio") is model.model.audio_tower
    assert model.get_encoder("image") is model.get_encoder("video") is model.model.vision_tower
    assert model.get_input_embeddings() is model.model.language_model.embed_tokens
    assert {"LlamaDecoderLayer", "CLIPEncoderLayer", "ASTLayer", "MokaProjector"} <= set(model._no_split_modules)
