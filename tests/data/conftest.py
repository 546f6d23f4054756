"""A small processor, tokenizers of the three kinds in use, and a record maker."""

import json

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "You are a helpful assistant. This is a video: This is an audio: This is an image:",
    "Please answer this question: How many instruments are sounding in the video? <answer> two </answer>",
    "Which instrument makes sounds before the flute? left right middle",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama-2's: the system turn goes inside the user's, which is stripped.
INST = (
    "{% if messages[0]['role'] == 'system' %}{% set sys = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}{% for m in rest %}{{ '[INST] ' + (sys + m['content']) | trim + ' [/INST]' }}{% endfor %}"
)
PLACEHOLDERS = {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>"}


def byte_level_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """As Qwen's and LLaMA-3's: bytes, no unknown token."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *PLACEHOLDERS.values()]
    trainer = BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
        extra_special_tokens=special[1:],
    )


def llama_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """As LLaMA-2's: words marked with a low line, unknown characters as bytes, no padding token."""
    tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *PLACEHOLDERS.values()]
    tokenizer.train_from_iterator(TEXTS, BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    # As special tokens the bytes would be matched in the text.
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
        extra_special_tokens=list(PLACEHOLDERS.values()),
    )


class Part:
    """Stands for an image processor or a feature extractor, of which the store asks its configuration."""

    def __init__(self, **config: float) -> None:
        self.config = config

    def to_json_string(self) -> str:
        return str(sorted(self.config.items()))


class FakeProcessor:
    """The part of `MokaOmniProcessor` that the data package uses, with features that can be read by eye."""

    image_token, video_token, audio_token = PLACEHOLDERS.values()
    visual_tokens = 3
    audio_tokens = 2

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_size: int = 4, mel_bins: int = 5) -> None:
        self.tokenizer = tokenizer
        self.image_processor = Part(size=image_size)
        self.feature_extractor = Part(mel_bins=mel_bins)
        for name, token in PLACEHOLDERS.items():
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))

    def process_images(self, frames: np.ndarray) -> torch.Tensor:
        """The left edge's grey, in squares of the configured size."""
        size = int(self.image_processor.config["size"])
        grey = torch.from_numpy(np.ascontiguousarray(frames[:, :, 4])).float().mean((1, 2))
        return grey[:, None, None, None].expand(-1, 3, size, size).clone()

    def process_audio(self, windows: np.ndarray) -> torch.Tensor:
        """The loudness of four quarters of each window, once a bin."""
        loudness = torch.from_numpy(windows).reshape(len(windows), 4, -1).pow(2).mean(-1)
        return loudness[..., None].expand(-1, -1, int(self.feature_extractor.config["mel_bins"])).clone()

    def expand(self, text: str, *, num_images: int = 0, num_frames: int = 0, num_windows: int = 0) -> str:
        for token, count in (
            (self.image_token, num_images * self.visual_tokens),
            (self.video_token, num_frames * self.visual_tokens),
            (self.audio_token, num_windows * self.audio_tokens),
        ):
            text = text.replace(token, token * count)
        return text


KINDS = {
    "byte-level, ChatML": lambda: byte_level_tokenizer(CHATML),
    "byte-level, no template": lambda: byte_level_tokenizer(None),
    "llama, INST": lambda: llama_tokenizer(INST),
    "llama, no template": lambda: llama_tokenizer(None),
}


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.replace(", ", "-").replace(" ", "-"))
def any_processor(request: pytest.FixtureRequest) -> FakeProcessor:
    """A processor around each kind of tokenizer."""
    return FakeProcessor(KINDS[request.param]())


@pytest.fixture(scope="session")
def processor() -> FakeProcessor:
    return FakeProcessor(byte_level_tokenizer(CHATML))


@pytest.fixture(autouse=True)
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    datasets.disable_progress_bars()
