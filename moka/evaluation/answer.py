"""Questions without an answer -> lines of predictions.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from moka.data import MediaFailure, QuestionCollator, check_media
from moka.evaluation.errors import EvaluationError
from moka.evaluation.generate import Record, generate_answers, order_by_length
from moka.evaluation.predictions import MediaProblem, Prediction, append_predictions
from moka.evaluation.tasks import Task

_SHOWN_FAILURES = 20


def answer_questions(
    task: Task,
    model: Any,
    collator: QuestionCollator,
    pending: Dataset,
    path: Path,
    *,
    rows: Mapping[str, int],
    total: int,
    batch_size: int,
    max_new_tokens: int,
    allow_media_failures: bool = False,
    num_proc: int | None = None,
) -> None:
    """Answers questions batch by batch and appends each batch to a predictions file before the next.

    Args:
        task: Reads the answer in the model's text.
        model: A model in eval mode.
        collator: Makes its batches; also gives the media store, the prompt and what is withheld.
        pending: The questions to answer.
        path: The predictions file.
        rows: Question id -> row in the whole question set, for messages.
        total: Questions of the whole run, for the progress bar.
        batch_size: Questions answered at a time.
        max_new_tokens: Longest answer.
        allow_media_failures: Write questions with unusable media down as unanswered.
        num_proc: Processes that decode media.

    Raises:
        EvaluationError: Media cannot be used and that is not allowed, or a question cannot be asked.
    """
    try:
        usable, failures = check_media(pending, collator.store, modalities=collator.modalities, num_proc=num_proc)
        order = order_by_length(usable, collator.template, collator.processor, collator.modalities)
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    problems = _problems(failures)
    if problems and not allow_media_failures:
        raise EvaluationError(_describe(failures, rows))
    append_predictions(
        path,
        [_prediction(record, None, None, problems[row]) for row, record in enumerate(pending) if row in problems],
    )
    with tqdm(total=total, initial=total - len(order), desc="Answering", unit="question") as bar:
        for batch in generate_answers(
            model,
            collator.tokenizer,
            collator,
            usable.select(order),
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
        ):
            append_predictions(path, [_prediction(record, text, task.parse(text), []) for record, text in batch])
            bar.update(len(batch))


def _prediction(record: Record, text: str | None, parsed: str | None, problems: list[MediaProblem]) -> Prediction:
    return Prediction(
        question_id=record["question_id"],
        type=record["type"],
        question=record["question"],
        answer=record["answer"],
        prediction=text,
        parsed=parsed,
        media_errors=problems,
    )


def _problems(failures: list[MediaFailure]) -> dict[int, list[MediaProblem]]:
    problems: dict[int, list[MediaProblem]] = {}
    for failure in failures:
        problems.setdefault(failure.row, []).append(MediaProblem(path=failure.path, reason=failure.reason))
    return problems


def _describe(failures: list[MediaFailure], rows: Mapping[str, int]) -> str:
    shown = [
        f"  row {rows[failure.question_id]} (question {failure.question_id!r}): {failure.path}: {failure.reason}"
        for failure in failures[:_SHOWN_FAILURES]
    ]
    if len(failures) > _SHOWN_FAILURES:
        shown.append(f"  and {len(failures) - _SHOWN_FAILURES} more")
    remedy = "Mend the files, or count these questions as wrong with --allow-media-failures"
    return "\n".join(["media cannot be used:", *shown, remedy])
