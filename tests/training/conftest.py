"""A world small enough to train on in a second: random backbones, four real clips, a few questions."""

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
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
    set_seed,
)

from moka.training import Arguments, parse_arguments

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "this",
    "is",
    "a",
    "an",
    "the",
    "video",
    "audio",
    "image",
    ":",
    ".",
    "?",
    "please",
    "answer",
    "question",
    "how",
    "many",
    "drums",
    "do",
    "you",
    "hear",
    "see",
    "one",
    "two",
    "three",
    "yes",
    "no",
    "<",
    ">",
    "</",
    "answer",
    "you",
    "are",
    "helpful",
    "assistant",
    "describe",
    "clip",
]


@dataclass
class World:
    """Where the tiny world lies.

    Args:
        folder: Holds language_model, vision_tower, audio_tower, media and the question sets.
    """

    folder: Path

    def settings(self, output_dir: Path, **changes: Any) -> dict[str, Any]:
        """Settings of a run of a second or two, to be changed by the test."""
        projector = {"type": "qformer", "num_queries": 2, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
        settings: dict[str, Any] = {
            "language_model": self.folder / "language_model",
            "vision_tower": self.folder / "vision_tower",
            "audio_tower": self.folder / "audio_tower",
            "vision_projector": json.dumps(projector | {"intermediate_size": 32}),
            "audio_projector": json.dumps(projector | {"intermediate_size": 32}),
            "questions": self.folder / "train.jsonl",
            "media": self.folder / "media",
            "media_cache": self.folder / "cache",
            "num_frames": 2,
            "num_windows": 2,
            "window_seconds": 0.3,
            "output_dir": output_dir,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 2,
            "dropout": 0.1,
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return settings | changes

    def argv(self, output_dir: Path, **changes: Any) -> list[str]:
        """The same settings as a command line; a setting changed to None is left out."""
        settings = self.settings(output_dir, **changes).items()
        return [word for key, value in settings if value is not None for word in (f"--{key}", str(value))]

    def arguments(self, output_dir: Path, **changes: Any) -> Arguments:
        """The same settings, parsed for stage 2."""
        return parse_arguments(self.argv(output_dir, **changes))

    @property
    def no_dropout(self) -> dict[str, Any]:
        """Changes under which a sample's loss does not depend on its batch: the Q-Former has a dropout of its own."""
        projector = json.dumps({"type": "mlp"})
        return {"dropout": 0, "vision_projector": projector, "audio_projector": projector}

    def stage_1(self, output_dir: Path, **changes: Any) -> Arguments:
        """The same settings, parsed for stage 1: captions and no adapter."""
        changes = {"questions": self.folder / "captions.jsonl", "dropout": None} | changes
        return parse_arguments(self.argv(output_dir, **changes), adapter=False)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny world, made once."""
    folder = tmp_path_factory.mktemp("world")
    torch.set_num_threads(1)
    set_seed(0)
    _save_backbones(folder)
    (folder / "media").mkdir()
    for index in range(4):
        _write_clip(folder / "media" / f"{index}.mp4", seed=index)
    questions = [
        {
            "question_id": f"q{index}",
            "question": ["how many drums do you hear ?", "do you see the drums ?"][index % 2],
            "answer": ["one", "two", "yes", "no", "three"][index % 5],
            "video": f"{index % 4}.mp4",
            "audio": f"{index % 4}.mp4",
        }
        for index in range(12)
    ]
    captions = [
        {
            "question_id": f"c{index}",
            "question": "describe the clip .",
            "target": "two drums .",
            "video": f"{index}.mp4",
        }
        | ({"audio": f"{index}.mp4"} if index % 2 else {})
        for index in range(4)
    ]
    write_jsonl(folder / "train.jsonl", questions)
    write_jsonl(folder / "eval.jsonl", questions[:4])
    write_jsonl(folder / "captions.jsonl", captions)
    return World(folder)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts child processes from one server that has imported transformers once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.jobs"])
    return context


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    """Writes one JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def job(processes: ForkServerContext) -> Callable[..., int]:
    """Runs a function in a process of its own and returns the exit code (-9 after SIGKILL)."""

    def run(target: Callable[..., None], *args: Any) -> int:
        process = processes.Process(target=target, args=args)
        process.start()
        process.join(timeout=120)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{target.__name__} did not end")
        return process.exitcode

    return run


def _save_backbones(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "language_model")
    language = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(language).save_pretrained(folder / "language_model")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(image_size=16, patch_size=8, **shape)).save_pretrained(folder / "vision_tower")
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder / "vision_tower")
    audio = ASTConfig(num_mel_bins=16, max_length=32, patch_size=8, frequency_stride=8, time_stride=8, **shape)
    ASTModel(audio).save_pretrained(folder / "audio_tower")
    ASTFeatureExtractor(num_mel_bins=16, max_length=32).save_pretrained(folder / "audio_tower")


def _write_clip(path: Path, *, seed: int) -> None:
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        colour = generator.integers(0, 255, 3)
        for _ in range(8):
            picture = np.full((32, 32, 3), colour, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        wave = 0.5 * np.sin(2 * np.pi * (220 + 110 * seed) * np.arange(16000) / 16000)
        for start in range(0, 16000, 1000):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1000].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
