"""What both stages need before training: the model, the question sets and the collator."""

import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model

from moka.adapter import MokaConfig
from moka.data import MediaStore, PromptTemplate, QuestionCollator, Windowing, check_media, load_questions
from moka.data.locate import existing, media_cache
from moka.data.prompts import refuse_special_tokens
from moka.omni import MokaOmniForConditionalGeneration, MokaOmniProcessor, assemble, load_projectors
from moka.training.arguments import AdapterArguments, Arguments, ConfigError, DataArguments
from moka.training.spelling import nearest

logger = logging.getLogger(__name__)


@dataclass
class QuestionSet:
    """A question set whose media can all be read.

    Args:
        rows: The usable rows.
        num_skipped: Rows left out.
    """

    rows: Dataset
    num_skipped: int


def build_model(arguments: Arguments) -> tuple[MokaOmniForConditionalGeneration | PeftModel, MokaOmniProcessor]:
    """Assembles the frozen backbones, the projectors and, in stage 2, the adapter.

    Trained weights are float32 whatever the base is: at a learning rate of 1e-4 bfloat16 rounds most updates away.

    Args:
        arguments: The run's arguments.

    Raises:
        ConfigError: A part cannot be found or used.
    """
    try:
        model, processor = _assemble(arguments)
        if arguments.adapter is None or arguments.adapter.adapter == "none":
            return model, processor
        towers = {"vision_projector": arguments.model.vision_tower, "audio_projector": arguments.model.audio_tower}
        projectors = [name for name, tower in towers.items() if tower is not None]
        return get_peft_model(model, adapter_config(arguments.adapter, projectors=projectors)), processor
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def _assemble(arguments: Arguments) -> tuple[MokaOmniForConditionalGeneration, MokaOmniProcessor]:
    parts = arguments.model
    model, processor = assemble(
        parts.language_model,
        parts.vision_tower,
        parts.audio_tower,
        vision_projector=cast(dict[str, Any] | None, parts.vision_projector),
        audio_projector=cast(dict[str, Any] | None, parts.audio_projector),
        vision_feature_layer=parts.vision_feature_layer,
        dtype=getattr(torch, arguments.dtype),
    )
    if parts.projectors is not None:
        load_projectors(model, parts.projectors)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model, processor


def adapter_config(arguments: AdapterArguments, *, projectors: list[str]) -> MokaConfig:
    """Turns the adapter's arguments into its config.

    Args:
        arguments: The adapter's arguments.
        projectors: Names of the projector modules, which are trained and saved with the adapter.
    """
    options: dict[str, Any] = {"modalities": arguments.modalities} if arguments.modalities is not None else {}
    return MokaConfig(
        r=arguments.r,
        alpha=arguments.alpha,
        dropout=arguments.dropout,
        cross_weight=arguments.cross_weight,
        use_rslora=arguments.use_rslora,
        scale_before_attention=arguments.scale_before_attention,
        target_modules=arguments.target_modules,
        modules_to_save=projectors,
        task_type="CAUSAL_LM",
        **options,
    )


def build_collator(data: DataArguments, processor: MokaOmniProcessor) -> QuestionCollator:
    """Builds what turns rows into batches: prompt, windowing and the store of decoded media.

    Args:
        data: The data's arguments.
        processor: The model's processor.

    Raises:
        ConfigError: Windowing or prompt that cannot be used.
    """
    try:
        windowing = Windowing(
            num_frames=data.num_frames,
            num_windows=data.num_windows,
            window_seconds=data.window_seconds,
            window_offset=data.window_offset,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    store = MediaStore(existing(data.media), processor, windowing, media_cache(data.media_cache))
    return QuestionCollator(processor, store, build_template(data.prompt), train=True, max_length=data.max_length)


def build_template(overrides: dict[str, Any] | str | None) -> PromptTemplate:
    """Builds the prompt from its defaults and the fields given in the configuration.

    Raises:
        ConfigError: An unknown field, a value that is not text, or a part without its slot.
    """
    fields = overrides if isinstance(overrides, dict) else {}
    for name, value in fields.items():
        if name not in PromptTemplate.__dataclass_fields__:
            raise ConfigError(f"prompt: unknown field {name!r}{nearest(name, PromptTemplate.__dataclass_fields__)}")
        if not isinstance(value, str):
            raise ConfigError(f"prompt: {name}: expected text, got {value!r}")
    try:
        return PromptTemplate(**fields)
    except ValueError as error:
        raise ConfigError(f"prompt: {error}") from error


def load_question_set(path: str, data: DataArguments, collator: QuestionCollator, *, captions: bool) -> QuestionSet:
    """Reads a question set, checks that each row can be trained on and decodes its media once.

    Args:
        path: The file, or a name of the generated world.
        data: Schema, patterns and the share of unreadable media that is allowed.
        collator: Holds the store the media are decoded into.
        captions: Stage 1: rows need a target text, an answer is not enough.

    Raises:
        ConfigError: No rows, a row without a target, too many rows with unreadable media.
    """
    file = existing(path)
    try:
        rows = load_questions(
            file,
            schema=data.schema,
            video_pattern=data.video_pattern,
            audio_pattern=data.audio_pattern,
            num_proc=data.num_proc,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if len(rows) == 0:
        raise ConfigError(f"{path}: holds no questions")
    for index, (target, answer) in enumerate(zip(rows["target"], rows["answer"], strict=True)):
        if target is None and (captions or answer is None):
            needed = "target (stage 1 trains on captions)" if captions else "target or answer"
            raise ConfigError(f"{path}: row {index} ({rows[index]['question_id']}) has no {needed} to train on")
    _refuse_unusable_texts(path, rows, collator)
    good, failures = check_media(rows, collator.store, num_proc=data.num_proc)
    for failure in failures:
        logger.warning(
            "%s: row %s (%s) is left out: %s: %s", path, failure.row, failure.question_id, failure.path, failure.reason
        )
    num_skipped = len(rows) - len(good)
    if num_skipped > data.max_media_failures * len(rows):
        first = failures[0]
        raise ConfigError(
            f"{path}: the media of {num_skipped} of {len(rows)} rows cannot be read, more than max_media_failures "
            f"{data.max_media_failures:g} allows; first: row {first.row}: {first.path}: {first.reason}"
        )
    if len(good) == 0:
        raise ConfigError(f"{path}: no row is left whose media can be read")
    logger.info("%s: %d rows, %d left out", path, len(good), num_skipped)
    return QuestionSet(good, num_skipped)


def _refuse_unusable_texts(path: str, rows: Dataset, collator: QuestionCollator) -> None:
    """Renders every prompt and target once, so that a text that cannot be used stops the run before it starts."""
    for index, record in enumerate(rows):
        try:
            collator.template.render(record, collator.processor)
            refuse_special_tokens(record, "target", collator.template.target_text(record), collator.processor)
        except ValueError as error:
            raise ConfigError(f"{path}: row {index}: {error}") from error
