"""Question sets -> one record type, as a `datasets.Dataset`, whatever the file's own schema."""

import codecs
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

import datasets
from datasets import Dataset, Features, Value

from moka.data.media import leaves_folder

logger = logging.getLogger(__name__)


class Question(TypedDict):
    """One question about one clip; a row of what `load_questions` returns.

    `answer` is the short gold answer, `target` the whole text to train on where it says more than the answer. `image`,
    `video` and `audio` are paths relative to the media folder; `audio` may name a video, whose sound is then meant.
    """

    question_id: str
    question: str
    answer: str | None
    target: str | None
    type: str
    image: str | None
    video: str | None
    audio: str | None


FEATURES = Features({name: Value("string") for name in Question.__annotations__})
MEDIA_COLUMNS = ("image", "video", "audio")
DEFAULT_VIDEO_PATTERN = "{video_id}.mp4"

_Converter = Callable[[dict[str, Any], int], "Question | None"]

_PLACEHOLDER = re.compile(r"<[^<>\s]+>")
_MUSIC_AVQA_KEYS = ("video_id", "question_id", "type", "question_content", "templ_values")


def fill_template(template: str, values: list[str]) -> str:
    """Put `values`, in order, in place of a template's `<Object>`-like placeholders, and tidy its punctuation.

    Args:
        template: MUSIC-AVQA's `question_content`.
        values: MUSIC-AVQA's `templ_values`.

    Returns:
        The question with a plain "?" for the full-width one and no blanks around it.

    Raises:
        ValueError: There are not as many values as placeholders, or an angle bracket belongs to no placeholder.
    """
    count = len(_PLACEHOLDER.findall(template))
    if count != len(values):
        raise ValueError(f"{count} placeholders in {template!r} but {len(values)} templ_values {values}")
    if re.search("[<>]", _PLACEHOLDER.sub("", template)):
        raise ValueError(f"an angle bracket in {template!r} belongs to no placeholder")
    remaining = iter(values)
    return _PLACEHOLDER.sub(lambda _: next(remaining), template).replace("？", "?").strip()


def load_questions(
    path: str | Path,
    *,
    schema: str = "auto",
    video_pattern: str = DEFAULT_VIDEO_PATTERN,
    audio_pattern: str | None = None,
    num_proc: int | None = None,
) -> Dataset:
    """Read a question set; the records are cached on disk by `datasets`, under the content of the file.

    Schemas: "music_avqa" is the official JSON of MUSIC-AVQA (a list); "jsonl" has one object a line with the keys of
    `Question`, of which only `question` is needed (`question_id` is then the line's number, from 0).

    Args:
        path: The file.
        schema: "music_avqa", "jsonl", or "auto" to tell by the first character.
        video_pattern: music_avqa: the video's path from its `video_id`.
        audio_pattern: music_avqa: the sound's path from its `video_id`; None for the sound inside the video.
        num_proc: Processes that convert rows; None for this one alone.

    Returns:
        A dataset with the columns of `FEATURES`, in the order of the file, without the rows that are marked deleted.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A row or the file breaks the schema; the message names the file, the row and the key.
    """
    path = Path(path)
    schema = _schema_of(path) if schema == "auto" else schema
    if schema == "music_avqa":
        read: Callable[[str], Iterator[dict[str, Any]]] = _list_rows
        convert: _Converter = partial(
            _from_music_avqa, video_pattern=video_pattern, audio_pattern=audio_pattern or video_pattern
        )
    elif schema == "jsonl":
        if audio_pattern is not None or video_pattern != DEFAULT_VIDEO_PATTERN:
            raise ValueError(
                f"{path}: jsonl rows name their media themselves; leave out video_pattern and audio_pattern"
            )
        read, convert = _line_rows, _from_jsonl
    else:
        raise ValueError(f"schema is {schema!r}, it must be 'auto', 'music_avqa' or 'jsonl'")
    if next(read(str(path)), None) is None:
        raise ValueError(f"{path}: the question set has no rows")

    # The code's own digest is part of the key, so that records never outlive the rules that made them.
    key = repr((schema, video_pattern, audio_pattern)).encode() + Path(__file__).read_bytes()
    with path.open("rb") as file:
        fingerprint = hashlib.sha256(key + hashlib.file_digest(file, "sha256").digest()).hexdigest()[:32]
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "moka"
    cache.mkdir(parents=True, exist_ok=True)
    raw = Dataset.from_generator(
        read,
        features=Features({"line": Value("int64"), "json": Value("large_binary")}),
        gen_kwargs={"path": str(path)},
        cache_dir=str(cache),
        fingerprint=fingerprint,
    )
    table = raw.map(
        partial(_convert_row, path=str(path), convert=convert),
        remove_columns=["line", "json"],
        features=Features({**FEATURES, "deleted": Value("bool")}),
        num_proc=num_proc,
        cache_file_name=str(cache / f"questions-{fingerprint}.arrow"),
        load_from_cache_file=True,
        new_fingerprint=fingerprint,
        desc=f"Reading {path.name}",
    )
    deleted = table["deleted"][:]
    if any(deleted):
        logger.warning(f"{path}: {sum(deleted)} of {len(table)} questions are marked deleted and are left out")
        table = table.select([row for row, gone in enumerate(deleted) if not gone])
    return table.remove_columns("deleted")


def _schema_of(path: Path) -> str:
    schemas = {b"[": "music_avqa", b"{": "jsonl"}
    with path.open("rb") as file:
        first = next((line for line in map(_stripped, file) if line), b"")[:1]
    if not first:
        raise ValueError(f"{path}: the file is empty")
    if first not in schemas:
        raise ValueError(f"{path}: neither a JSON list (music_avqa) nor JSON lines (jsonl): it starts with {first!r}")
    return schemas[first]


def _stripped(line: bytes) -> bytes:
    return line.removeprefix(codecs.BOM_UTF8).strip()


def _line_rows(path: str) -> Iterator[dict[str, Any]]:
    """The lines that are not blank, one at a time, so that a file of any size fits."""
    with open(path, "rb") as file:
        for number, line in enumerate(map(_stripped, file)):
            if line:
                yield {"line": number, "json": line}


def _list_rows(path: str) -> Iterator[dict[str, Any]]:
    try:
        items = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(items, list):
        raise ValueError(f"{path}: the music_avqa schema is a JSON list, this is a {type(items).__name__}")
    for number, item in enumerate(items):
        yield {"line": number, "json": json.dumps(item).encode()}


def _convert_row(row: dict[str, Any], path: str, convert: _Converter) -> dict[str, Any]:
    place = f"{path}, row {row['line']}"
    try:
        item = json.loads(row["json"].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from error
    if not isinstance(item, dict):
        raise ValueError(f"{place}: an object is expected, this is a {type(item).__name__}")
    try:
        record = convert(item, row["line"])
    except ValueError as error:
        raise ValueError(f"{place}, question_id {item.get('question_id')!r}: {error}") from error
    if record is None:
        return {**dict.fromkeys(FEATURES), "deleted": True}
    return {**record, "deleted": False}


def _from_jsonl(item: dict[str, Any], line: int) -> Question:
    unknown = sorted(item.keys() - FEATURES.keys())
    if unknown:
        raise ValueError(f"unknown keys {unknown}; the keys are {list(FEATURES)}")
    record = {**dict.fromkeys(FEATURES), **item}
    if record["question_id"] is None:
        record["question_id"] = str(line)
    return _checked(record)


def _from_music_avqa(item: dict[str, Any], line: int, video_pattern: str, audio_pattern: str) -> Question | None:
    missing = [key for key in _MUSIC_AVQA_KEYS if key not in item]
    if missing:
        raise ValueError(f"keys {missing} are missing; this is not MUSIC-AVQA's official JSON")
    if item.get("question_deleted", 0) != 0:
        return None
    answers = [item[key] for key in ("anser", "answer") if key in item]
    if not answers or answers[0] != answers[-1]:
        raise ValueError(f"one answer is expected under 'anser' or 'answer', there is {answers or 'none'}")
    return _checked(
        {
            "question_id": item["question_id"],
            "question": fill_template(_text(item, "question_content"), _strings(item, "templ_values")),
            "answer": answers[0],
            "target": None,
            "type": "/".join(_strings(item, "type")),
            "image": None,
            "video": _media_path(video_pattern, _text(item, "video_id")),
            "audio": _media_path(audio_pattern, _text(item, "video_id")),
        }
    )


def _media_path(pattern: str, video_id: str) -> str:
    try:
        return pattern.format(video_id=video_id)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"the pattern {pattern!r} may name only {{video_id}}") from error


def _text(item: dict[str, Any], key: str) -> str:
    if not isinstance(item[key], str) or not item[key].strip():
        raise ValueError(f"{key} is {item[key]!r}, it must be a text that is not empty")
    return item[key]


def _strings(item: dict[str, Any], key: str) -> list[str]:
    """A list of strings, or one written as JSON in a string."""
    value = item[key]
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{key} is {value!r}, which is not JSON") from error
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{key} is {value!r}, it must be a list of strings")
    return value


def _checked(item: dict[str, Any]) -> Question:
    """Check the types of a record's values, and that its media stay inside the media folder."""
    if isinstance(item["question_id"], int) and not isinstance(item["question_id"], bool):
        item["question_id"] = str(item["question_id"])
    item["type"] = item["type"] or ""
    _text(item, "question_id")
    _text(item, "question")
    for key in FEATURES:
        if item[key] is not None and not isinstance(item[key], str):
            raise ValueError(f"{key} is {item[key]!r}, it must be a text or null")
    for key in MEDIA_COLUMNS:
        if item[key] == "" or (item[key] and leaves_folder(item[key])):
            raise ValueError(f"{key} is {item[key]!r}, it must be a path inside the media folder, or null")
    return cast(Question, item)
