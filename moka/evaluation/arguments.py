"""What an evaluation is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser

from moka.data.prompts import MODALITIES
from moka.evaluation.errors import EvaluationError
from moka.evaluation.tasks import TASKS


@dataclass
class EvaluationArguments:
    """Which adapter answers which questions, how, and where the answers go.

    Raises:
        EvaluationError: An unknown task or modality, or a number below one.
    """

    task: str = field(metadata={"help": f"Benchmark, which says how answers are read and scored: {', '.join(TASKS)}."})
    adapter: str = field(metadata={"help": "Output folder of a training run, or its id on the model hub."})
    questions: str = field(metadata={"help": "Question set: a file, or moka-tiny/test.jsonl."})
    media: str = field(metadata={"help": "Folder the question set's media paths start from, or moka-tiny/media."})
    schema: str = field(default="auto", metadata={"help": "Question schema: auto, jsonl or music_avqa."})
    video_pattern: str = field(
        default="{video_id}.mp4", metadata={"help": "Video path of a music_avqa record, under the media folder."}
    )
    audio_pattern: str | None = field(
        default=None, metadata={"help": "Audio path of a music_avqa record; none: the sound inside the video file."}
    )
    output: str | None = field(
        default=None,
        metadata={"help": "Folder for predictions.jsonl and results.json; none: ADAPTER/eval/TASK-QUESTIONS."},
    )
    modalities: str | None = field(
        default=None,
        metadata={"help": "What the model is given, such as text,audio; the other media are withheld. None: all."},
    )
    batch_size: int = field(default=8, metadata={"help": "Questions answered at a time; no answer depends on it."})
    max_new_tokens: int = field(default=500, metadata={"help": "Longest answer in tokens."})
    limit: int | None = field(default=None, metadata={"help": "Answer and score only the first questions."})
    allow_media_failures: bool = field(
        default=False, metadata={"help": "Count questions with unusable media as wrong instead of stopping."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Start anew instead of going on from earlier answers."})
    data_config: str | None = field(
        default=None,
        metadata={"help": "JSON with the prompt and windowing to use instead of the adapter's data_config.json."},
    )
    media_cache: str | None = field(
        default=None,
        metadata={"help": "Folder for decoded media; none: the user's cache folder; off: decode each time."},
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes that read questions and decode media; none: one."}
    )
    language_model: str | None = field(default=None, metadata={"help": "Replaces the adapter's own language model."})
    vision_tower: str | None = field(default=None, metadata={"help": "Replaces the adapter's own vision encoder."})
    audio_tower: str | None = field(default=None, metadata={"help": "Replaces the adapter's own audio encoder."})
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "Number format of the weights; auto: bfloat16 on a GPU, else float32."}
    )
    device: str | None = field(
        default=None, metadata={"help": "Such as cpu or cuda:1; none: a GPU when there is one."}
    )
    modality_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise EvaluationError(f"--task {self.task!r} is unknown; the tasks are {', '.join(TASKS)}")
        for name in ("batch_size", "max_new_tokens", "limit", "num_proc"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        self.modality_names = MODALITIES if self.modalities is None else _modality_names(self.modalities)

    def output_folder(self) -> Path:
        """`output`, or a folder inside the adapter's that names the task, the question file and what is withheld.

        Raises:
            EvaluationError: The adapter is not a folder here, so that nothing can be written into it.
        """
        if self.output is not None:
            return Path(self.output)
        if not Path(self.adapter).is_dir():
            raise EvaluationError(f"--adapter {self.adapter!r} is not a folder here; say where to write with --output")
        withheld = "" if self.modality_names == MODALITIES else "-" + "-".join(self.modality_names)
        return Path(self.adapter) / "eval" / f"{self.task}-{Path(self.questions).stem}{withheld}"


def _modality_names(given: str) -> tuple[str, ...]:
    """The names in a comma-separated list, in the order of MODALITIES."""
    names = [name.strip() for name in given.split(",")]
    unknown = [name for name in names if name not in MODALITIES]
    if unknown:
        raise EvaluationError(
            f"--modalities {given!r}: {', '.join(map(repr, unknown))} is unknown; the modalities are "
            f"{', '.join(MODALITIES)}"
        )
    if "text" not in names:
        raise EvaluationError(f"--modalities {given!r} lacks text; a question cannot be withheld")
    return tuple(name for name in MODALITIES if name in names)


def parse_arguments(argv: Sequence[str], description: str | None = None) -> EvaluationArguments:
    """Reads an evaluation's arguments from a command line.

    Args:
        argv: The command line without the program's name.
        description: First line of `--help`.

    Raises:
        EvaluationError: A value that cannot be used. Unknown options end the program, as argparse does.
    """
    parser = HfArgumentParser(EvaluationArguments, description=description, allow_abbrev=False)  # type: ignore[arg-type]
    return EvaluationArguments(**vars(parser.parse_args(list(argv))))
