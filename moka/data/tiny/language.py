"""The tiny language models, trained to answer questions about scenes told in words."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from .captions import (
    AUDIO_QUESTION,
    HEARD_QUESTION,
    PROMPT,
    SEEN_QUESTION,
    VIDEO_QUESTION,
    describe_audio,
    describe_frame,
    describe_video,
    list_heard,
    list_seen,
)
from .questions import Balance
from .scenes import Scene, scene_stream
from .schedule import warmup_cosine
from .settings import WorldSettings
from .splits import draw_splits
from .templates import TEMPLATES, Template
from .tokenizer import build_tokenizer

IGNORED = -100
# What of a scene a text tells, and how often: withheld media occur at test, too.
TOLD = {("video", "audio"): 0.76, ("audio",): 0.1, ("video",): 0.1, (): 0.04}
CAPTION_SHARE = 0.1
LIST_SHARE = 0.5
# Most of the text asks for what is seen or what is heard: joining the two is what fine-tuning is for.
AUDIO_VISUAL_SHARE = 0.25
Row = tuple[list[int], list[int]]


class SceneText:
    """Turns scenes into training sequences in the very prompt format that is used with media.

    A sequence tells a scene once and asks several questions about it, one after another.

    Args:
        tokenizer: With or without a chat template.
        settings: Seed and questions per scene.
        stream: Name of the scene stream; the scenes of clips are left out.
    """

    image_token, video_token, audio_token = "<|image|>", "<|video|>", "<|audio|>"

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: WorldSettings, stream: str) -> None:
        self.tokenizer, self.settings, self.stream = tokenizer, settings, stream
        self.prompts = PROMPT
        self.balance = Balance()
        self.shown = {clip.scene for clips in draw_splits(settings).values() for clip in clips}
        self._ids_of: dict[str, list[int]] = {}

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Endless batches of `settings.language_batch` scenes, padded on the right."""
        index = 0
        while True:
            rows = [self.row(index + offset) for offset in range(self.settings.language_batch)]
            index += len(rows)
            length = max(len(ids) for ids, _ in rows)
            pad = self.tokenizer.pad_token_id
            yield {
                "input_ids": torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows]),
                "labels": torch.tensor([labels + [IGNORED] * (length - len(ids)) for ids, labels in rows]),
            }

    def row(self, index: int) -> Row:
        """Token ids and labels of scene `index` of the stream with its questions."""
        rng = scene_stream(self.settings.seed, self.stream, index)
        told = list(TOLD)[rng.choice(len(TOLD), p=list(TOLD.values()))]
        templates = [template for template in TEMPLATES if answerable(template, told)]
        if rng.random() > AUDIO_VISUAL_SHARE:
            templates = [template for template in templates if not template.type.startswith("Audio-Visual")]
        scene = self.balance.draw_scene(templates, rng)
        while scene in self.shown:
            scene = self.balance.draw_scene(templates, rng)
        asked = self.balance.ask(scene, templates, self.settings.questions_per_scene, rng)
        return self.encode(
            scene, told, [*self._captions(scene, told, rng), *((a.wording, a.answer, None) for a in asked)]
        )

    def _captions(
        self, scene: Scene, told: tuple[str, ...], rng: np.random.Generator
    ) -> Iterator[tuple[str, None, str]]:
        """Lists and descriptions to copy out: they teach to find words again far sooner than yes and no do."""
        if "video" in told and rng.random() < LIST_SHARE:
            yield SEEN_QUESTION, None, list_seen(scene)
        if "audio" in told and rng.random() < LIST_SHARE:
            yield HEARD_QUESTION, None, list_heard(scene)
        if "video" in told and rng.random() < CAPTION_SHARE:
            yield VIDEO_QUESTION, None, describe_video(scene)
        if "audio" in told and rng.random() < CAPTION_SHARE:
            yield AUDIO_QUESTION, None, describe_audio(scene)

    def encode(self, scene: Scene, told: tuple[str, ...], pairs: list[tuple[str, str | None, str | None]]) -> Row:
        """Tokenise the scene's description and the questions, each as (question, answer or None, target or None)."""
        ids: list[int] = []
        labels: list[int] = []
        for question, answer, target in pairs:
            record = {name: "told" if name in told else None for name in ("image", "video", "audio")}
            record |= {"question_id": "text", "question": question, "answer": answer, "target": target}
            prompt = self.prompts.render(record, self)
            start, _ = prompt.question_span
            if not ids:
                context = prompt.text[:start].replace(self.video_token, describe_frame(scene))
                ids = list(self.tokenizer(context.replace(self.audio_token, describe_audio(scene)))["input_ids"])
                labels = [IGNORED] * len(ids)
            wanted = [*self._ids(self.prompts.target_text(record)), self.tokenizer.eos_token_id]
            asked = self._ids(prompt.text[start:])
            ids += asked + wanted
            labels += [IGNORED] * len(asked) + wanted
        return ids, labels

    def _ids(self, text: str) -> list[int]:
        if text not in self._ids_of:
            self._ids_of[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._ids_of[text]


def answerable(template: Template, told: tuple[str, ...]) -> bool:
    """Whether a text that tells these media can answer the template; one that tells nothing can only be guessed at."""
    if len(told) == 1:
        return template.type.startswith({"audio": "Audio/", "video": "Visual/"}[told[0]])
    return True


def build_language_model(settings: WorldSettings, folder: Path, *, family: str) -> None:
    """Train a language model and save it with its tokenizer as a Hugging Face folder.

    Args:
        settings: Sizes and seed.
        folder: Where to save.
        family: "llama" or "qwen2".
    """
    tokenizer = build_tokenizer(chat=family == "qwen2")
    torch.manual_seed(settings.seed)
    model = new_language_model(settings, family, tokenizer)
    train_language_model(model, SceneText(tokenizer, settings, "language"), settings, family)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_language_model(settings: WorldSettings, family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Make an untrained model of the settings' size from torch's random numbers."""
    width = settings.language_width
    heads = max(1, width // 32)
    sizes = {
        "vocab_size": -(-len(tokenizer) // 8) * 8,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": settings.language_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 1024,
        # Larger than usual: so narrow a model learns to look words up far sooner.
        "initializer_range": 0.05,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    return Qwen2ForCausalLM(Qwen2Config(**sizes))


def train_language_model(model: PreTrainedModel, text: SceneText, settings: WorldSettings, family: str) -> None:
    """Next-token training on the answers about told scenes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.language_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = warmup_cosine(optimizer, settings.language_steps)
    model.train()
    progress = tqdm(range(settings.language_steps), desc=f"{family} (text)", mininterval=1.0)
    for step, batch in zip(progress, text.batches(), strict=False):
        logits, labels = model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        loss = cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
