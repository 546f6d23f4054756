"""Checking a question set's media before training or evaluation reads them."""

from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from moka.data.media import MediaError
from moka.data.prompts import withhold
from moka.data.questions import MEDIA_COLUMNS
from moka.data.store import MediaStore


@dataclass(frozen=True)
class MediaFailure:
    """A medium of a question that cannot be used.

    Args:
        row: The question's row in the dataset that was checked.
        question_id: Its id.
        path: The file, relative to the media folder.
        reason: What is wrong, for a person.
    """

    row: int
    question_id: str
    path: str
    reason: str


def check_media(
    dataset: Dataset,
    store: MediaStore,
    *,
    modalities: Collection[str] | None = None,
    num_proc: int | None = None,
) -> tuple[Dataset, list[MediaFailure]]:
    """Decode every file that a question set names, each once, which also fills the store's cache.

    Args:
        dataset: What `load_questions` returns.
        store: The store that training or evaluation will read from.
        modalities: Check only these (of text, visual, audio), where the others are withheld; None for all.
        num_proc: Processes that decode; None for this one alone.

    Returns:
        The questions whose media are all usable, and the failures of the others, in order.
    """
    table = {column: dataset[column][:] for column in ("question_id", *MEDIA_COLUMNS)}
    table = withhold(table, modalities)
    columns = [column for column in MEDIA_COLUMNS if table[column] is not None]
    wanted = list(dict.fromkeys((column, path) for column in columns for path in table[column] if path is not None))
    reasons = {medium: reason for medium, reason in _reasons(wanted, store, num_proc) if reason is not None}

    failures: list[MediaFailure] = []
    for row, question_id in enumerate(table["question_id"]):
        found = {(table[c][row], reasons[c, table[c][row]]) for c in columns if (c, table[c][row]) in reasons}
        failures.extend(MediaFailure(row, question_id, path, reason) for path, reason in sorted(found))
    failed = {failure.row for failure in failures}
    good = dataset.select([row for row in range(len(dataset)) if row not in failed]) if failed else dataset
    return good, failures


_worker_store: MediaStore


def _start_worker(store: MediaStore) -> None:
    global _worker_store
    _worker_store = store
    torch.set_num_threads(1)


def _check_in_worker(medium: tuple[str, str]) -> str | None:
    return _check(_worker_store, medium)


def _check(store: MediaStore, medium: tuple[str, str]) -> str | None:
    try:
        store.load(*medium)
    except MediaError as error:
        return error.reason
    return None


def _reasons(
    wanted: list[tuple[str, str]], store: MediaStore, num_proc: int | None
) -> Iterable[tuple[tuple[str, str], str | None]]:
    bar = {"total": len(wanted), "desc": "Checking media", "unit": "file", "disable": not wanted}
    if num_proc is None or num_proc == 1 or len(wanted) < 2:
        for medium in tqdm(wanted, **bar):
            yield medium, _check(store, medium)
        return
    with ProcessPoolExecutor(min(num_proc, len(wanted)), initializer=_start_worker, initargs=(store,)) as pool:
        yield from zip(wanted, tqdm(pool.map(_check_in_worker, wanted), **bar), strict=True)
