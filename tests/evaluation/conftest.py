"""A trained folder, clips and questions, all tiny and real."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from moka.adapter import MokaConfig
from moka.data import Presentation, PromptTemplate, Windowing
from moka.evaluation import EvaluationArguments
from moka.omni import assemble
from moka.training.artifacts import save_weights
from tests.data.files import tone, write_clip, write_sound

CLIP = {"video": "clip.mp4", "audio": "clip.mp4"}
QUESTIONS: list[dict[str, Any]] = [
    {"question": "how many instruments do you hear ?", "answer": "two", "type": "Audio/Counting", **CLIP},
    {"question": "do you hear the cello and see the piano in the clip ?", "answer": "yes", **CLIP},
    {"question": "how many ?", "answer": "one", "type": "Audio/Counting", "audio": "sound.wav"},
    {"question": "do you see the piano before the cello ?", "answer": "no", "video": "silent.mp4"},
    {"question": "which do you see first ?", "answer": "cello", **CLIP, "audio": "sound.wav"},
    {"question": "how many do you see and hear in the clip ?", "answer": "three", "video": "silent.mp4"},
    {"question": "yes or no ?", "answer": "yes"},
    {"question": "do you hear one ?", "answer": "yes", "type": "Audio/Counting", "audio": "clip.mp4"},
]


@dataclass(frozen=True)
class World:
    """Where the tiny world lies.

    Args:
        folder: Holds language_model, vision_tower, audio_tower, adapter, media and questions.jsonl.
    """

    folder: Path

    def arguments(self, output: Path, **changes: Any) -> EvaluationArguments:
        """An evaluation of a second or two."""
        return EvaluationArguments(**self.settings(output, **changes))

    def argv(self, output: Path, **changes: Any) -> list[str]:
        """The same as a command line."""
        settings = self.settings(output, **changes).items()
        return [word for name, value in settings for word in (f"--{name.replace('_', '-')}", str(value))]

    def settings(self, output: Path, **changes: Any) -> dict[str, Any]:
        """The arguments by name."""
        return {
            "task": "music_avqa",
            "adapter": str(self.folder / "adapter"),
            "questions": str(self.folder / "questions.jsonl"),
            "media": str(self.folder / "media"),
            "media_cache": str(self.folder / "cache"),
            "output": str(output),
            "max_new_tokens": 12,
            "batch_size": 3,
            "device": "cpu",
            **changes,
        }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny world, made once."""
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    backbones = {name: str(folder / name) for name in ("language_model", "vision_tower", "audio_tower")}
    _save_language_model(folder / "language_model")
    _save_towers(folder / "vision_tower", folder / "audio_tower")
    write_clip(folder / "media" / "clip.mp4", seconds=1.0, sound=tone(1.0))
    write_clip(folder / "media" / "silent.mp4", seconds=0.6)
    write_sound(folder / "media" / "sound.wav", tone(0.7, hertz=900))
    write_questions(folder / "questions.jsonl", QUESTIONS)
    save_trained(folder / "adapter", adapter=True, **backbones)
    return World(folder)


def write_questions(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes a question set; ids are q0, q1, ... unless given."""
    given = [{"question_id": f"q{i}", "type": "Audio-Visual/Temporal", **row} for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return path


def _save_language_model(folder: Path) -> None:
    words_used = " ".join(row["question"] for row in QUESTIONS) + " two three no"
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "<answer>", "</answer>", *sorted(set(words_used.split()))]
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        # Large weights: what is written depends on all that is read.
        initializer_range=0.4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _save_towers(vision: Path, audio: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(image_size=16, patch_size=8, **shape)).save_pretrained(vision)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(vision)
    spectrogram = {"num_mel_bins": 16, "max_length": 32}
    ASTModel(ASTConfig(patch_size=8, frequency_stride=8, time_stride=8, **spectrogram, **shape)).save_pretrained(audio)
    ASTFeatureExtractor(**spectrogram).save_pretrained(audio)


def save_trained(folder: Path, *, adapter: bool, **backbones: str) -> Path:
    """What training would leave, with random weights in place of trained ones."""
    projectors = {"vision_tower": "vision_projector", "audio_tower": "audio_projector"}
    names = [projector for tower, projector in projectors.items() if tower in backbones]
    model, processor = assemble(**backbones, **{name: {"type": "mlp"} for name in names})
    if adapter:
        model = get_peft_model(model, MokaConfig(modules_to_save=names))
        for name, parameter in model.named_parameters():
            if "moka_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    save_weights(model, processor, folder)
    Presentation(PromptTemplate(), Windowing(num_frames=2, num_windows=2, window_seconds=0.3)).save(folder)
    return folder
