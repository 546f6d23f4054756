"""Where an evaluation's inputs come from: the adapter's folder, how it was shown its data, the question set."""

import json
from pathlib import Path

from datasets import Dataset
from huggingface_hub import snapshot_download

from moka.data import Presentation, load_questions
from moka.data.locate import existing
from moka.data.presentation import DATA_CONFIG
from moka.evaluation.arguments import EvaluationArguments
from moka.evaluation.errors import EvaluationError
from moka.omni.checkpoints import HUB_FILES


def adapter_folder(name: str) -> Path:
    """Returns the folder of an adapter, downloaded when it is an id on the model hub.

    Raises:
        EvaluationError: Neither a folder nor such an id, or no training run's output.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise EvaluationError(f"--adapter {name!r}: no such folder")
        try:
            folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"--adapter {name!r} is no folder here, and not found on the hub: {error}"
            ) from error
    if not (folder / "config.json").is_file():
        raise EvaluationError(
            f"--adapter {name!r}: {folder} has no config.json; give the output folder of a training run"
        )
    return folder


def backbones(folder: Path, arguments: EvaluationArguments) -> dict[str, str | None]:
    """Returns the names of the backbones that are used: the adapter's own, or those given instead."""
    own = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("backbones", {})
    names = ("language_model", "vision_tower", "audio_tower")
    return {name: getattr(arguments, name) or own.get(name) for name in names}


def read_presentation(folder: Path, override: str | None) -> Presentation:
    """Reads the prompt and windowing that an adapter was trained with.

    Args:
        folder: The adapter's.
        override: A file of the same form to read instead.

    Raises:
        EvaluationError: No such file, or not of that form.
    """
    path = folder / DATA_CONFIG if override is None else Path(override)
    try:
        return Presentation.load(path)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{path} is missing: it says which prompt and windowing the adapter was trained with; give a file with "
            "--data-config"
        ) from error
    except ValueError as error:
        raise EvaluationError(str(error)) from error


def read_questions(arguments: EvaluationArguments) -> Dataset:
    """Reads the question set.

    Raises:
        EvaluationError: The file breaks its schema, or an id occurs twice.
    """
    try:
        questions = load_questions(
            existing(arguments.questions),
            schema=arguments.schema,
            video_pattern=arguments.video_pattern,
            audio_pattern=arguments.audio_pattern,
            num_proc=arguments.num_proc,
        )
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    refuse_duplicates(questions["question_id"][:], arguments.questions)
    return questions


def refuse_duplicates(ids: list[str], place: str) -> None:
    """Raises an EvaluationError when a question id occurs twice, since answers are found by it.

    Args:
        ids: The ids of a question set, row after row.
        place: The question set's name, for the message.
    """
    found: dict[str, list[int]] = {}
    for row, question_id in enumerate(ids):
        found.setdefault(question_id, []).append(row)
    twice = {question_id: where for question_id, where in found.items() if len(where) > 1}
    if twice:
        shown = "; ".join(f"{question_id!r} in rows {where}" for question_id, where in list(twice.items())[:5])
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise EvaluationError(
            f"{place}: question ids must be unique, but {shown}{more}; give each question its own id"
        )
