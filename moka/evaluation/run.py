"""An evaluation from its arguments to its results, resumable at every point."""

import dataclasses
import logging
from typing import Any

import torch
from datasets import Dataset
from filelock import FileLock, Timeout

from moka.data import MediaStore, Presentation, QuestionCollator
from moka.data.locate import existing, media_cache
from moka.data.prompts import MODALITIES, withhold
from moka.evaluation.answer import answer_questions
from moka.evaluation.arguments import EvaluationArguments
from moka.evaluation.errors import EvaluationError
from moka.evaluation.predictions import Prediction
from moka.evaluation.results import Results
from moka.evaluation.run_folder import RunFolder
from moka.evaluation.run_identity import digest_adapter, digest_media, digest_questions
from moka.evaluation.sources import (
    adapter_folder,
    backbones,
    read_presentation,
    read_questions,
)
from moka.evaluation.tasks import TASKS, Task
from moka.omni import load_adapter

logger = logging.getLogger(__name__)


def evaluate(arguments: EvaluationArguments) -> Results:
    """Answers a question set with an adapter and scores the answers; what an interrupted run answered is kept.

    Writes predictions.jsonl (a line a question), run.json (what made them) and results.json into the output folder.

    Args:
        arguments: The evaluation's arguments.

    Raises:
        EvaluationError: Inputs that cannot be used, or an output folder that belongs to another run.
    """
    output = arguments.output_folder()
    adapter = adapter_folder(arguments.adapter)
    presentation = read_presentation(adapter, arguments.data_config)
    questions = read_questions(arguments)
    _refuse_unscorable(TASKS[arguments.task], questions, arguments.questions)
    identity = {
        "task": arguments.task,
        "adapter": digest_adapter(adapter),
        "questions": digest_questions(questions),
        "media": digest_media(
            (withhold(record, arguments.modality_names) for record in questions), existing(arguments.media)
        ),
        "modalities": list(arguments.modality_names),
        "max_new_tokens": arguments.max_new_tokens,
        "dtype": _dtype(arguments),
        "prompt": dataclasses.asdict(presentation.prompt),
        "windowing": dataclasses.asdict(presentation.windowing),
        **backbones(adapter, arguments),
    }
    information = {name: str(getattr(arguments, name)) for name in ("adapter", "questions", "media")}
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=0):
            folder = RunFolder(output, identity, information)
            return _answer_and_score(arguments, folder, questions, presentation)
    except Timeout as error:
        raise EvaluationError(
            f"another evaluation is writing to {output}; wait for it, or choose another --output"
        ) from error


def _answer_and_score(
    arguments: EvaluationArguments, folder: RunFolder, questions: Dataset, presentation: Presentation
) -> Results:
    task = TASKS[arguments.task]
    answered = {row["question_id"] for row in folder.open(overwrite=arguments.overwrite)}
    selected = questions.select(range(min(arguments.limit or len(questions), len(questions))))
    ids = questions["question_id"][:]
    pending = selected.select([row for row, name in enumerate(ids[: len(selected)]) if name not in answered])
    if len(pending) < len(selected):
        logger.info("%d of %d questions are answered already", len(selected) - len(pending), len(selected))
    if len(pending):
        model, collator = _load(arguments, presentation)
        _refuse_lacking_towers(arguments, collator, pending)
        answer_questions(
            task,
            model,
            collator,
            pending,
            folder.predictions,
            rows={name: row for row, name in enumerate(ids)},
            total=len(selected),
            batch_size=arguments.batch_size,
            max_new_tokens=arguments.max_new_tokens,
            allow_media_failures=arguments.allow_media_failures,
            num_proc=arguments.num_proc,
        )
    return folder.finish(task, ids, len(selected))


def _load(arguments: EvaluationArguments, presentation: Presentation) -> tuple[Any, QuestionCollator]:
    try:
        model, processor = load_adapter(
            adapter_folder(arguments.adapter),
            language_model=arguments.language_model,
            vision_tower=arguments.vision_tower,
            audio_tower=arguments.audio_tower,
            dtype=getattr(torch, _dtype(arguments)),
            device=_device(arguments),
        )
    except (ValueError, OSError) as error:
        raise EvaluationError(f"--adapter {arguments.adapter!r} cannot be loaded: {error}") from error
    store = MediaStore(
        existing(arguments.media), processor, presentation.windowing, media_cache(arguments.media_cache)
    )
    withheld = None if arguments.modality_names == MODALITIES else arguments.modality_names
    return model, QuestionCollator(processor, store, presentation.prompt, train=False, modalities=withheld)


def _refuse_lacking_towers(arguments: EvaluationArguments, collator: QuestionCollator, pending: Dataset) -> None:
    """A model without a tower would be asked about media that it cannot take."""
    lacking = {
        "visual": collator.processor.visual_tokens is None and (*pending["image"], *pending["video"]),
        "audio": collator.processor.audio_tokens is None and (*pending["audio"],),
    }
    for modality, paths in lacking.items():
        media = [path for path in paths or () if path is not None]
        if media and modality in arguments.modality_names:
            others = ",".join(name for name in arguments.modality_names if name != modality)
            raise EvaluationError(
                f"--adapter {arguments.adapter!r} was trained without {modality} input, but questions have it, such "
                f"as {media[0]}; withhold it with --modalities {others}"
            )


def _device(arguments: EvaluationArguments) -> str:
    if arguments.device is not None and arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise EvaluationError(f"--device {arguments.device}: torch finds no GPU here; leave it out to use the CPU")
    return arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(arguments: EvaluationArguments) -> str:
    if arguments.dtype != "auto":
        return arguments.dtype
    return "bfloat16" if _device(arguments).startswith("cuda") else "float32"


def _refuse_unscorable(task: Task, questions: Dataset, place: str) -> None:
    """Scores empty predictions: a question set that cannot be scored is refused before hours are spent on it."""
    empty = (
        Prediction(
            question_id=record["question_id"],
            type=record["type"],
            question=record["question"],
            answer=record["answer"],
            prediction="",
            parsed=None,
            media_errors=[],
        )
        for record in questions
    )
    try:
        task.score(empty)
    except ValueError as error:
        raise EvaluationError(f"{place}: {error}") from error
