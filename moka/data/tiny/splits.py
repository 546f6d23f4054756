"""Which scenes and questions make up train, val and test."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .captions import AUDIO_QUESTION, VIDEO_QUESTION, describe_audio, describe_video
from .questions import Asked, Balance, ask_all_types
from .render import write_clip
from .scenes import Scene, scene_stream
from .settings import WorldSettings
from .templates import TEMPLATES

SLACK = 3
SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Clip:
    """A clip of a split: its file name, its scene and what is asked about it."""

    file: str
    scene: Scene
    questions: tuple[Asked, ...]


def draw_splits(settings: WorldSettings) -> dict[str, list[Clip]]:
    """Draw the scenes and questions of every split; no scene occurs twice, so none is in two splits."""
    used: set[Scene] = set()
    return {split: _draw_split(settings, split, used) for split in SPLITS}


def _draw_split(settings: WorldSettings, split: str, used: set[Scene]) -> list[Clip]:
    balance, clips = Balance(SLACK), []
    for index in range(getattr(settings, f"{split}_scenes")):
        rng = scene_stream(settings.seed, split, index)
        scene = balance.draw_scene(list(TEMPLATES), rng)
        while scene in used:
            scene = balance.draw_scene(list(TEMPLATES), rng)
        used.add(scene)
        clips.append(Clip(f"{split}_{index:05d}.mp4", scene, tuple(ask_all_types(scene, balance, rng))))
    return clips


def write_questions(settings: WorldSettings, file: Path, *, split: str) -> None:
    """Write a split's question set as jsonl."""
    rows: list[dict[str, Any]] = []
    for clip in draw_splits(settings)[split]:
        for asked in clip.questions:
            rows.append(
                {
                    "question_id": f"{split}-{len(rows):05d}",
                    "question": asked.wording,
                    "answer": asked.answer,
                    "type": asked.type,
                    "video": clip.file,
                    "audio": clip.file,
                }
            )
    _write_jsonl(rows, file)


def write_captions(settings: WorldSettings, file: Path) -> None:
    """Write the descriptions of training clips, picture and sound apart, as jsonl."""
    rows: list[dict[str, Any]] = []
    for clip in draw_splits(settings)["train"][: settings.caption_scenes]:
        for column, question, target in (
            ("video", VIDEO_QUESTION, describe_video(clip.scene)),
            ("audio", AUDIO_QUESTION, describe_audio(clip.scene)),
        ):
            identity = f"caption-{len(rows):05d}"
            rows.append({"question_id": identity, "question": question, "target": target, column: clip.file})
    _write_jsonl(rows, file)


def write_media(settings: WorldSettings, folder: Path) -> None:
    """Write every split's clips into a folder; clips that are already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = [clip for split in draw_splits(settings).values() for clip in split]
    for clip in tqdm(clips, desc="clips", unit="clip", mininterval=1.0):
        if not (folder / clip.file).exists():
            unfinished = folder.with_name(folder.name + ".clip")
            write_clip(unfinished, clip.scene, scene_stream(settings.seed, "render " + clip.file, 0))
            unfinished.replace(folder / clip.file)


def _write_jsonl(rows: list[dict[str, Any]], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
