"""The configs: what they refuse, what they compute, what survives a save."""

from pathlib import Path

import pytest
import torch
from transformers import ASTConfig, ASTModel, AutoConfig, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from moka.omni import MokaOmniConfig, MokaProjectorConfig
from tests.omni.conftest import ENCODER, SIZES

TEXT = LlamaConfig(**SIZES)
IDS = {"image_token_id": 0, "video_token_id": 1, "audio_token_id": 2}


def vision(**options: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(**ENCODER, image_size=24, patch_size=8, **options)


def test_a_query_projector_gives_its_queries_as_tokens() -> None:
    config = MokaOmniConfig(text_config=TEXT, vision_config=vision(), vision_projector={"num_queries": 5})
    assert config.visual_tokens == 5
    assert config.vision_projector.hidden_size == 768
    assert config.audio_tokens is None
    assert config.audio_projector is None


def test_an_mlp_projector_keeps_every_patch_of_the_encoder() -> None:
    audio = ASTConfig(**ENCODER, max_length=70, num_mel_bins=33, patch_size=8, frequency_stride=5, time_stride=7)
    config = MokaOmniConfig(
        text_config=TEXT,
        vision_config=vision(),
        audio_config=audio,
        vision_projector={"type": "mlp"},
        audio_projector={"type": "mlp"},
    )
    patches = CLIPVisionModel(vision())(torch.zeros(1, 3, 24, 24)).last_hidden_state.shape[1] - 1
    sounds = ASTModel(audio)(torch.zeros(1, 70, 33)).last_hidden_state.shape[1] - 2
    assert (config.visual_tokens, config.audio_tokens) == (patches, sounds)


def test_a_saved_config_comes_back(tmp_path: Path) -> None:
    config = MokaOmniConfig(
        text_config=TEXT,
        vision_config=vision(),
        vision_projector=MokaProjectorConfig(type="mlp", num_queries=7),
        vision_feature_layer=1,
        backbones={"language_model": "a/b", "vision_tower": "c/d", "audio_tower": None},
        **IDS,
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MokaOmniConfig
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert loaded.audio_config is None
    assert type(loaded.vision_projector) is MokaProjectorConfig
    assert loaded.backbones["vision_tower"] == "c/d"


def test_tied_embeddings_follow_the_text_config() -> None:
    assert not MokaOmniConfig(text_config=TEXT).tie_word_embeddings
    assert MokaOmniConfig(text_config=LlamaConfig(**SIZES, tie_word_embeddings=True)).tie_word_embeddings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_projector": {}}, "audio_projector is given but audio_config is not"),
        ({**IDS, "video_token_id": 0}, "must differ"),
        ({**IDS, "audio_token_id": SIZES["vocab_size"]}, "audio_token_id=.*outside"),
        ({"vision_config": vision(), "vision_feature_layer": -5}, "vision_feature_layer=-5.*from -4 to 3"),
        ({"vision_config": vision(), "vision_projector": {"num_queries": 0}}, "num_queries=0"),
        ({"vision_config": vision(), "vision_projector": {"hidden_size": 10, "num_heads": 4}}, "multiple"),
        ({"vision_config": vision(), "vision_projector": {"type": "conv"}}, "type"),
    ],
)
def test_impossible_configs_are_refused(options: dict, message: str) -> None:
    with pytest.raises(Exception, match=message) as raised:
        MokaOmniConfig(text_config=TEXT, **options)
    assert isinstance(raised.value, ValueError) or "Validation" in type(raised.value).__name__
