"""What a training run is told: one dataclass a concern, all keys flat in one YAML file or on the command line."""

import dataclasses
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from transformers import IntervalStrategy, SchedulerType, TrainingArguments
from transformers.trainer_utils import HubStrategy


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key, its value, where it came from and the remedy."""


def _parse_json_object(arguments: Any, *keys: str) -> None:
    for key in keys:
        value = getattr(arguments, key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise ConfigError(
                    f"{key}: {value!r} is not JSON ({error}); write it like '{{\"name\": 1}}'"
                ) from error
            setattr(arguments, key, value)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{key}: expected a mapping, got {value!r}")


@dataclass
class ModelArguments:
    """The frozen backbones and the projectors between them."""

    _argument_group_name = "model"

    language_model: str = field(
        metadata={"help": "Causal LM: hub id, local folder or moka-tiny/llama, moka-tiny/qwen2."}
    )
    vision_tower: str | None = field(
        default=None, metadata={"help": "CLIP vision encoder (hub id or folder); none: no visual input."}
    )
    audio_tower: str | None = field(
        default=None, metadata={"help": "AST audio encoder (hub id or folder); none: no audio input."}
    )
    vision_projector: dict | str | None = field(
        default=None, metadata={"help": "Fields of MokaProjectorConfig as a mapping (JSON on the command line)."}
    )
    audio_projector: dict | str | None = field(
        default=None, metadata={"help": "Fields of MokaProjectorConfig as a mapping (JSON on the command line)."}
    )
    vision_feature_layer: int = field(
        default=-2, metadata={"help": "Hidden state of the vision tower that is projected; -2: the last but one."}
    )
    projectors: str | None = field(
        default=None, metadata={"help": "Folder written by stage 1, to start the projectors from."}
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={"help": "Number format of the frozen weights; auto: bfloat16 with --bf16, else float32."},
    )

    def __post_init__(self) -> None:
        _parse_json_object(self, "vision_projector", "audio_projector")
        if self.vision_tower is None and self.audio_tower is None:
            raise ConfigError(
                "give vision_tower, audio_tower or both: a language model alone has no projector to train"
            )


@dataclass
class DataArguments:
    """The question sets, their media and how both become model inputs."""

    _argument_group_name = "data"

    questions: str = field(
        metadata={"help": "Training question set: a file, or moka-tiny/train.jsonl, moka-tiny/captions.jsonl."}
    )
    media: str = field(metadata={"help": "Folder the question set's media paths start from, or moka-tiny/media."})
    eval_questions: str | None = field(
        default=None, metadata={"help": "Question set whose loss is measured during training."}
    )
    schema: str = field(default="auto", metadata={"help": "Question schema: auto, jsonl or music_avqa."})
    video_pattern: str = field(
        default="{video_id}.mp4", metadata={"help": "Video path of a music_avqa record, under the media folder."}
    )
    audio_pattern: str | None = field(
        default=None, metadata={"help": "Audio path of a music_avqa record; none: the sound inside the video file."}
    )
    num_frames: int = field(default=10, metadata={"help": "Frames a video is sampled to, evenly over its length."})
    num_windows: int = field(default=10, metadata={"help": "Audio windows a sound track is cut into."})
    window_seconds: float = field(default=2.0, metadata={"help": "Length of an audio window in seconds."})
    window_offset: float = field(
        default=-0.5, metadata={"help": "Start of a window relative to its anchor, in seconds."}
    )
    prompt: dict | str | None = field(
        default=None,
        metadata={"help": "Overrides of PromptTemplate's fields as a mapping (JSON on the command line)."},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest sequence in tokens; a longer one is an error, never cut."}
    )
    media_cache: str | None = field(
        default=None,
        metadata={"help": "Folder for decoded media; none: the user's cache folder; off: decode each time."},
    )
    max_media_failures: float = field(
        default=0.01,
        metadata={"help": "Share of a question set's rows whose media may be unreadable; more is an error."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that decode media before training."})

    def __post_init__(self) -> None:
        _parse_json_object(self, "prompt")
        if not 0.0 <= self.max_media_failures <= 1.0:
            raise ConfigError(f"max_media_failures: expected a share from 0 to 1, got {self.max_media_failures}")


@dataclass
class AdapterArguments:
    """The MokA adapter; see `moka.adapter.MokaConfig`."""

    _argument_group_name = "adapter"

    adapter: Literal["moka", "none"] = field(
        default="moka", metadata={"help": "moka: adapter and projectors are trained; none: projectors only."}
    )
    r: int = field(default=4, metadata={"help": "Rank."})
    alpha: float = field(default=16, metadata={"help": "The update is scaled by alpha / r."})
    dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapter's input."})
    cross_weight: float = field(default=1.0, metadata={"help": "Weight of the attention to the question; 0: off."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by alpha / sqrt(r) instead."})
    scale_before_attention: bool = field(
        default=False, metadata={"help": "Scale before the attention, as the authors' released checkpoints do."}
    )
    modalities: dict | str | None = field(
        default=None,
        metadata={"help": "Slot name -> mm_token_type_ids, as a mapping; none: text [0], visual [1, 2], audio [3]."},
    )
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "Adapted linear layers; none: the language model's seven projections."}
    )

    def __post_init__(self) -> None:
        _parse_json_object(self, "modalities")


@dataclass
class MokaTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the paper's recipe as defaults (AdamW, 1e-4, cosine, warm-up 3 %).

    Other defaults that differ: `remove_unused_columns` is always False (dropping a column would turn media into text),
    a non-finite loss is logged as it is, `data_seed` is `seed`, and DDP looks for unused parameters because a batch
    may lack a modality.
    """

    _argument_group_name = "training"

    output_dir: str = field(metadata={"help": "Folder for the adapter, checkpoints, metrics and model card."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Highest learning rate."})
    lr_scheduler_type: SchedulerType | str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up: steps, or a share of all steps below 1."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Samples a process and micro-batch."})
    per_device_eval_batch_size: int = field(
        default=8, metadata={"help": "Samples a process when measuring eval loss."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Optimizer steps between log events."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide non-finite losses from the log."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the oldest go first."})
    hub_strategy: HubStrategy | str = field(
        default="end", metadata={"help": "Always end: with --push_to_hub the finished folder is uploaded."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Always false."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Needed when a batch may lack a modality."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "true: go on from the newest complete checkpoint in output_dir, or start if there is none; "
            "false: never; or a checkpoint folder.",
        },
    )

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise ConfigError(
                "remove_unused_columns: must stay false; it would drop mm_token_type_ids and every media token "
                "would be treated as text"
            )
        if self.label_smoothing_factor != 0:
            raise ConfigError(
                f"label_smoothing_factor: must stay 0, got {self.label_smoothing_factor}; the Trainer's smoother does "
                "not shift the labels of multimodal models"
            )
        if HubStrategy(self.hub_strategy) != HubStrategy.END:
            raise ConfigError(f"hub_strategy: only 'end' is supported, got {HubStrategy(self.hub_strategy).value!r}")
        if self.data_seed is None:
            self.data_seed = self.seed
        super().__post_init__()

    @property
    def resume(self) -> bool | str:
        """`resume_from_checkpoint` as the Trainer takes it: True, False or a folder."""
        value = self.resume_from_checkpoint
        if value is None or str(value).lower() in ("false", "no", "0"):
            return False
        return True if str(value).lower() in ("true", "yes", "1") else str(value)


@dataclass
class Arguments:
    """All arguments of one run.

    Args:
        model: Backbones and projectors.
        data: Question sets and media.
        training: The Trainer's settings.
        adapter: The adapter; None in stage 1, which has none.
    """

    model: ModelArguments
    data: DataArguments
    training: MokaTrainingArguments
    adapter: AdapterArguments | None = None

    def __post_init__(self) -> None:
        evaluates = self.training.eval_strategy != "no" or self.training.eval_on_start
        if evaluates and self.data.eval_questions is None:
            raise ConfigError(
                f"eval_strategy: {IntervalStrategy(self.training.eval_strategy).value} needs eval_questions"
            )
        if self.data.eval_questions is not None and not evaluates:
            raise ConfigError("eval_questions: nothing reads them while eval_strategy is no; set it to steps or epoch")

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """Number format of the frozen weights."""
        if self.model.dtype == "auto":
            return "bfloat16" if self.training.bf16 else "float32"
        return self.model.dtype

    def to_dict(self) -> dict[str, Any]:
        """Every key and value as plain YAML types, flat; reading it back as `--config` gives the same run."""
        values: dict[str, Any] = {}
        for group in (self.model, self.data, self.adapter, self.training):
            if group is not None:
                for entry in dataclasses.fields(group):
                    if entry.init and entry.name not in _NOT_RECORDED:
                        values[entry.name] = _plain(getattr(group, entry.name))
        return values


PATH_KEYS = frozenset(
    [
        "language_model",
        "vision_tower",
        "audio_tower",
        "projectors",
        "questions",
        "eval_questions",
        "media",
        "media_cache",
        "output_dir",
        "resume_from_checkpoint",
    ]
)
"""Keys whose values may start with ~ or hold environment variables."""

# A secret, a value each process has of its own, and deprecated twins of keys that are recorded.
_NOT_RECORDED = {"hub_token", "local_rank", "gradient_checkpointing", "gradient_checkpointing_kwargs"}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return value
