"""The tiny language models, trained to answer questions about scenes told in words."""

from collections.abc import Iterable, Iterator
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
    Facts,
    describe_audio,
    describe_frame,
    describe_video,
    heard_facts,
    seen_facts,
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
FACTS = {"video": (SEEN_QUESTION, seen_facts), "audio": (HEARD_QUESTION, heard_facts)}
# Most of the text asks only for what is seen or what is heard: joining the two is what fine-tuning is for.
AUDIO_VISUAL_SHARE = 0.2
QUERY_KEY_GAIN = 1.5
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
        pairs = [(question.wording, PROMPT.answer.format(answer=question.answer)) for question in asked]
        pairs += self._captions(scene, told, rng)
        pairs = [pairs[place] for place in rng.permutation(len(pairs))]
        return self.encode(scene, told, pairs, _facts(scene, told, rng))

    def _captions(self, scene: Scene, told: tuple[str, ...], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
        if "video" in told and rng.random() < CAPTION_SHARE:
            yield VIDEO_QUESTION, describe_video(scene)
        if "audio" in told and rng.random() < CAPTION_SHARE:
            yield AUDIO_QUESTION, describe_audio(scene)

    def encode(
        self,
        scene: Scene,
        told: tuple[str, ...],
        pairs: Iterable[tuple[str, str]],
        facts: Iterable[tuple[str, Facts]] = (),
    ) -> Row:
        """Tokenise a scene told once, then questions with their replies, then facts about it.

        The facts come last, where no answer can be read off them. Of them only what follows the given word is
        learned: so many small look-ups teach to find words again far sooner than a question with one answer does.
        """
        context, _ = self._prompt("", told)
        context = context.replace(self.video_token, describe_frame(scene))
        ids = list(self.tokenizer(context.replace(self.audio_token, describe_audio(scene)))["input_ids"])
        labels = [IGNORED] * len(ids)

        def add(text: str, learned: list[int]) -> None:
            given = self._ids(text)
            ids.extend(given + learned)
            labels.extend([IGNORED] * len(given) + learned)

        for question, reply in pairs:
            add(self._prompt(question, told)[1], [*self._ids(reply), self.tokenizer.eos_token_id])
        for question, entries in facts:
            add(self._prompt(question, told)[1], [])
            for given, fact in entries:
                add(given, self._ids(fact))
        return ids, labels

    def _prompt(self, question: str, told: tuple[str, ...]) -> tuple[str, str]:
        """What comes before a question, and the question with what follows."""
        record = {name: "told" if name in told else None for name in ("image", "video", "audio")}
        prompt = self.prompts.render(record | {"question_id": "text", "question": question}, self)
        start, _ = prompt.question_span
        return prompt.text[:start], prompt.text[start:]

    def _ids(self, text: str) -> list[int]:
        if text not in self._ids_of:
            self._ids_of[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._ids_of[text]


def _facts(scene: Scene, told: tuple[str, ...], rng: np.random.Generator) -> Iterator[tuple[str, Facts]]:
    """What can be said of each kind of instrument, in any order: its place in the list must not be a clue."""
    for medium, (question, list_facts) in FACTS.items():
        if medium in told:
            entries = list_facts(scene)
            yield question, [entries[place] for place in rng.permutation(len(entries))]


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
    model: PreTrainedModel
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    with torch.no_grad():
        for layer in model.model.layers:
            # Equal queries and keys let a word attend to its like from the start (after arXiv 2305.09828).
            layer.self_attn.q_proj.weight.mul_(QUERY_KEY_GAIN)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    return model


def train_language_model(model: PreTrainedModel, text: SceneText, settings: WorldSettings, family: str) -> None:
    """Next-token training on the answers about told scenes."""
    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and ".layers." in name]
    others = [value for name, value in model.named_parameters() if value.ndim != 2 or ".layers." not in name]
    rate, decay = settings.language_rate, 0.01
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=decay),
    ]
    schedules = [warmup_cosine(optimizer, settings.language_steps) for optimizer in optimizers]
    model.train()
    progress = tqdm(range(settings.language_steps), desc=f"{family} (text)", mininterval=1.0)
    for step, batch in zip(progress, text.batches(), strict=False):
        logits, labels = model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        loss = cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
