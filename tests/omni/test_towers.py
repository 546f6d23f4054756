"""Every encoder that can be a tower: loaded from real folders, its features are what it gives when run alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from moka.omni import (
    BeatsConfig,
    BeatsFeatureExtractor,
    BeatsModel,
    MokaOmniForConditionalGeneration,
    MokaOmniProcessor,
    assemble,
)

from .conftest import ENCODER, PATCH, QFORMER, SIDE, frames, sound
from .test_beats import TINY

VISION = {**ENCODER, "image_size": SIDE, "patch_size": PATCH}
MLP = {"type": "mlp"}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with siglip, siglip_full, beats, beats.pt and whisper."""
    root = tmp_path_factory.mktemp("towers")
    torch.manual_seed(5)
    side = {"height": 20, "width": 12}
    text = {**ENCODER, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    tower = SiglipVisionModel(SiglipVisionConfig(**VISION))
    tower.load_state_dict(
        {name.removeprefix("vision_model."): v for name, v in whole.vision_model.state_dict().items()}
    )
    for name, vision in (("siglip_full", whole), ("siglip", tower)):
        vision.save_pretrained(root / name)
        SiglipImageProcessorPil(size=side).save_pretrained(root / name)
    beats = BeatsModel(BeatsConfig(**TINY, max_length=32))
    beats.save_pretrained(root / "beats")
    BeatsFeatureExtractor(max_length=32).save_pretrained(root / "beats")
    torch.save({"cfg": TINY, "model": beats.state_dict()}, root / "beats.pt")
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 30}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(**sizes, **special, num_mel_bins=8, max_source_positions=50)
    WhisperForConditionalGeneration(config).save_pretrained(root / "whisper")
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(root / "whisper")
    return root


def built(
    backbones: Path, tower: Path, kind: str, projector: dict[str, Any]
) -> tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]:
    torch.manual_seed(6)
    parts: dict[str, Any] = {f"{kind}_tower": str(tower), f"{kind}_projector": projector}
    return assemble(str(backbones / "llama"), **parts)


@pytest.mark.parametrize("projector", [QFORMER, MLP], ids=["qformer", "mlp"])
@pytest.mark.parametrize("name", ["siglip", "siglip_full"])
@torch.no_grad()
def test_a_vision_tower_gives_its_patches(backbones: Path, towers: Path, name: str, projector: dict[str, Any]) -> None:
    model, processor = built(backbones, towers / name, "vision", projector)
    # Whole frames, squeezed into the square that the tower takes.
    pixels = processor.process_images(frames(1, 2))
    assert pixels.shape == (2, 3, SIDE, SIDE)
    alone = SiglipVisionModel.from_pretrained(towers / "siglip").eval()
    patches = alone(pixels, output_hidden_states=True).hidden_states[-2]
    features = model.model.get_video_features(pixels)
    torch.testing.assert_close(features, model.model.vision_projector(patches))
    assert features.shape[1] == processor.visual_tokens == (3 if projector is QFORMER else 4)
    batch = processor(text="see <|video|> ?", videos=[frames(1, 2)])
    assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("projector", [QFORMER, MLP], ids=["qformer", "mlp"])
@pytest.mark.parametrize("name", ["beats", "whisper"])
@torch.no_grad()
def test_an_audio_tower_gives_its_tokens(backbones: Path, towers: Path, name: str, projector: dict[str, Any]) -> None:
    model, processor = built(backbones, towers / name, "audio", projector)
    windows = processor.process_audio(sound(2, 3))
    if name == "beats":
        alone, tokens = BeatsModel.from_pretrained(towers / name).eval(), 16
    else:
        alone, tokens = WhisperForConditionalGeneration.from_pretrained(towers / name).eval().model.encoder, 50
    features = model.model.get_audio_features(windows)
    torch.testing.assert_close(features, model.model.audio_projector(alone(windows).last_hidden_state))
    assert features.shape[1] == processor.audio_tokens == (3 if projector is QFORMER else tokens)
    batch = processor(text="hear <|audio|> ?", audio=[sound(2, 2)])
    assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize(("kind", "name"), [("vision", "siglip"), ("audio", "beats"), ("audio", "whisper")])
@torch.no_grad()
def test_a_model_and_its_processor_save_and_load(
    backbones: Path, towers: Path, tmp_path: Path, kind: str, name: str
) -> None:
    model, processor = built(backbones, towers / name, kind, QFORMER)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = MokaOmniForConditionalGeneration.from_pretrained(tmp_path).eval()
    loaded = MokaOmniProcessor.from_pretrained(tmp_path)
    media = {"videos": [frames(1, 2)]} if kind == "vision" else {"audio": [sound(2, 2)]}
    text = f"see {'<|video|>' if kind == 'vision' else '<|audio|>'} ?"
    batch = processor(text=text, **media)
    for key, value in loaded(text=text, **media).items():
        assert torch.equal(value, batch[key])
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(f"{kind}_projector" in n for n in trained)


def test_an_official_beats_checkpoint_is_a_tower(backbones: Path, towers: Path) -> None:
    model, processor = built(backbones, towers / "beats.pt", "audio", QFORMER)
    assert processor.feature_extractor.max_length == 198
    own = BeatsModel.from_pretrained(towers / "beats").state_dict()
    assert all(torch.equal(v, own[n]) for n, v in model.model.audio_tower.state_dict().items())
    assert processor.process_audio([sound(0)[0]]).shape == (1, 198, 128)


def test_a_window_that_would_be_cut_is_refused(backbones: Path, towers: Path) -> None:
    for name, longest in (("beats", 400 + 160 * 32 - 1), ("whisper", 16000)):
        _, processor = built(backbones, towers / name, "audio", QFORMER)
        silence = torch.zeros(longest).numpy()
        processor.process_audio([silence])
        with pytest.raises(ValueError, match=f"{longest + 1} samples"):
            processor.process_audio([torch.zeros(longest + 1).numpy()])


def test_an_extractor_of_another_shape_is_refused(backbones: Path, towers: Path, tmp_path: Path) -> None:
    for name, other, message in (
        ("beats", BeatsFeatureExtractor(max_length=48), r"\(48, 128\), its encoder takes \(32, 128\)"),
        ("whisper", WhisperFeatureExtractor(feature_size=8), r"\(3000, 8\), its encoder takes \(100, 8\)"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file in (towers / name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        other.save_pretrained(folder)
        with pytest.raises(ValueError, match=message):
            built(backbones, folder, "audio", QFORMER)
