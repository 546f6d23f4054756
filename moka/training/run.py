"""The two stages of training, from arguments to a folder that is complete by itself."""

import logging
import shutil
from pathlib import Path

from transformers import set_seed

from moka.training.arguments import Arguments
from moka.training.artifacts import move_files, remove_stale_weights, save_training_config
from moka.training.card import model_card
from moka.training.checkpoints import checkpoint_to_resume
from moka.training.components import build_collator, build_model, load_question_set
from moka.training.trainer import MokaTrainer

logger = logging.getLogger(__name__)


def pretrain(arguments: Arguments) -> MokaTrainer:
    """Stage 1: trains the projectors on captions; backbones are frozen and there is no adapter.

    Args:
        arguments: The run's arguments; `arguments.adapter` is None.

    Raises:
        ConfigError: Settings or data that cannot be used.
    """
    return _run(arguments, captions=True)


def finetune(arguments: Arguments) -> MokaTrainer:
    """Stage 2: trains the MokA adapter and the projectors on questions (arXiv 2506.05191, section 4).

    Args:
        arguments: The run's arguments; with `adapter: none` only the projectors are trained.

    Raises:
        ConfigError: Settings or data that cannot be used.
    """
    return _run(arguments, captions=False)


def _run(arguments: Arguments, *, captions: bool) -> MokaTrainer:
    training = arguments.training
    _set_up_logging(main_process=training.process_index == 0)
    checkpoint = checkpoint_to_resume(arguments)
    set_seed(training.seed)
    model, processor = build_model(arguments)
    collator = build_collator(arguments.data, processor)
    with training.main_process_first(local=False, desc="decoding media"):
        # The first process decodes and fills the cache; the others find it full.
        questions = load_question_set(arguments.data.questions, arguments.data, collator, captions=captions)
        held_out = None
        if arguments.data.eval_questions is not None:
            held_out = load_question_set(arguments.data.eval_questions, arguments.data, collator, captions=captions)
    trainer = MokaTrainer(
        model=model,
        args=training,
        data_collator=collator,
        train_dataset=questions.rows,
        eval_dataset=None if held_out is None else held_out.rows,
        processing_class=processor,
    )
    if training.should_save and checkpoint is None:
        save_training_config(training.output_dir, arguments)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    card = model_card(
        arguments,
        log_history=trainer.state.log_history,
        num_questions=len(questions.rows),
        num_skipped=questions.num_skipped,
        world_size=training.world_size,
    )
    _write_output(trainer, arguments, card)
    if training.push_to_hub:
        trainer.push_to_hub()
    return trainer


def _write_output(trainer: MokaTrainer, arguments: Arguments, card: str) -> None:
    output_dir = Path(arguments.training.output_dir)
    staging = output_dir / ".output-incomplete"
    if arguments.training.should_save:
        shutil.rmtree(staging, ignore_errors=True)
    trainer.save_model(str(staging), _internal_call=True)
    if arguments.training.should_save:
        save_training_config(staging, arguments)
        (staging / "README.md").write_text(card, encoding="utf-8")
        remove_stale_weights(output_dir, staging)
        move_files(staging, output_dir)
        logger.info("Wrote %s", output_dir)
    trainer.accelerator.wait_for_everyone()


def _set_up_logging(*, main_process: bool) -> None:
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("moka").setLevel(logging.INFO if main_process else logging.ERROR)
