"""Asking a trained model about one's own files."""

from pathlib import Path
from typing import Any

import torch

from moka.data import MediaStore, Presentation, QuestionCollator
from moka.data.presentation import DATA_CONFIG
from moka.evaluation.generate import generate_answers
from moka.evaluation.sources import adapter_folder
from moka.omni import load_adapter


class Assistant:
    """A trained model that answers questions about files, shown to it as its training data were.

    Args:
        adapter: Output folder of a training run, or its id on the model hub.
        device: Such as "cuda"; the CPU when None.
        dtype: Of the backbones; the language model's own when None.
        **backbones: `language_model`, `vision_tower`, `audio_tower`, where they are not what training recorded.

    Raises:
        EvaluationError: Neither a folder nor a hub id, or no training run's output.
        FileNotFoundError: The folder lacks a part.
        ValueError: The folder does not fit the backbones.
    """

    def __init__(
        self,
        adapter: str | Path,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        **backbones: str | None,
    ) -> None:
        folder = adapter_folder(str(adapter))
        self.model, self.processor = load_adapter(folder, device=device, dtype=dtype, **backbones)
        presentation = Presentation.load(folder / DATA_CONFIG)
        # Paths of one question may lie anywhere, so all are taken from the file system's root.
        self._root = Path(Path.cwd().anchor)
        store = MediaStore(self._root, self.processor, presentation.windowing, cache_dir=None)
        self._collator = QuestionCollator(self.processor, store, presentation.prompt, train=False)

    def ask(
        self,
        question: str,
        *,
        video: str | Path | None = None,
        audio: str | Path | None = None,
        image: str | Path | None = None,
        max_new_tokens: int = 500,
    ) -> str:
        """Answer one question, greedily.

        Args:
            question: The question alone; the prompt is added.
            video: A video file, for its pictures.
            audio: A sound file, or a video for its sound.
            image: A picture.
            max_new_tokens: Longest answer.

        Returns:
            What the model writes, such as "<answer> two </answer>".

        Raises:
            MediaError: A file is missing or cannot be used.
            ValueError: The question is empty or spells a special token, or the model lacks a tower for a medium.
        """
        if not question.strip():
            raise ValueError("the question is empty")
        media = {"video": video, "audio": audio, "image": image}
        record: dict[str, Any] = {
            "question_id": "asked",
            "question": question,
            "answer": None,
            "target": None,
            "type": "",
        }
        record |= {name: None if file is None else self._from_root(file) for name, file in media.items()}
        batches = generate_answers(
            self.model,
            self.processor.tokenizer,
            self._collator,
            [record],
            batch_size=1,
            max_new_tokens=max_new_tokens,
        )
        ((_, answer),) = next(batches)
        return answer

    def _from_root(self, file: str | Path) -> str:
        return str(Path(file).expanduser().resolve().relative_to(self._root))
