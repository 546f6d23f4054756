"""What a run's answers depend on, in short."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moka.data.questions import FEATURES, MEDIA_COLUMNS

# What an adapter's answers depend on; model card, metrics and training arguments are not among it.
_WEIGHT_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def digest_questions(questions: Iterable[Mapping[str, Any]]) -> str:
    """Returns a SHA-256 of a question set, in order, whatever file and schema it came from."""
    digest = hashlib.sha256()
    for record in questions:
        digest.update(json.dumps([record[name] for name in FEATURES]).encode() + b"\n")
    return digest.hexdigest()


def digest_media(questions: Iterable[Mapping[str, Any]], media: Path) -> str:
    """Returns a SHA-256 of the names and sizes of a question set's media files, wherever their folder is."""
    paths = sorted({record[column] for record in questions for column in MEDIA_COLUMNS if record[column] is not None})
    digest = hashlib.sha256()
    for path in paths:
        size = (media / path).stat().st_size if (media / path).is_file() else None
        digest.update(json.dumps([path, size]).encode() + b"\n")
    return digest.hexdigest()


def digest_adapter(folder: Path) -> str:
    """Returns a SHA-256 of the weights, configurations and tokenizer in an adapter's folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _WEIGHT_SUFFIXES)
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
