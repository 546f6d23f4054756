"""transformers' Trainer, for a frozen multimodal base with a trained adapter and trained projectors."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from moka.data import Presentation, QuestionCollator
from moka.omni import MokaOmniForConditionalGeneration, MokaOmniProcessor, load_projectors
from moka.training.arguments import MokaTrainingArguments
from moka.training.artifacts import save_weights
from moka.training.callbacks import LogAtCheckpoints, MetricsFile
from moka.training.checkpoints import STAGING, last_checkpoint, missing_files

logger = logging.getLogger(__name__)


class MokaTrainer(Trainer):
    """Trains whatever of a `MokaOmniForConditionalGeneration` (or a PeftModel around it) is not frozen.

    Differs from its parent in what is written: checkpoints hold trained weights only, and one appears under its name
    by a single rename when it is complete, so that a killed run never resumes from half a checkpoint.

    Args:
        model: The omni model, or a PeftModel around it.
        args: The training's arguments.
        data_collator: Turns rows into batches; its prompt and windowing are saved with the weights.
        processing_class: The model's processor, saved with the weights.
        **kwargs: As for `transformers.Trainer`: train_dataset, eval_dataset, callbacks, ...

    Raises:
        ValueError: Nothing to train.
    """

    def __init__(
        self,
        *,
        model: MokaOmniForConditionalGeneration | PeftModel,
        args: MokaTrainingArguments,
        data_collator: QuestionCollator,
        processing_class: MokaOmniProcessor,
        **kwargs: Any,
    ) -> None:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("the model has no trainable parameter; attach an adapter or unfreeze the projectors")
        self.trained = model
        self.collator = data_collator
        self.processor = processing_class
        self.output_dir = Path(args.output_dir)
        self._staging: Path | None = None
        super().__init__(
            model=model, args=args, data_collator=data_collator, processing_class=processing_class, **kwargs
        )
        # The Trainer writes its own use_cache into the config; saved with the weights it would make generation slow.
        vars(model.config).pop("use_cache")
        self.add_callback(MetricsFile(self.output_dir / "metrics.jsonl"))
        self.add_callback(LogAtCheckpoints())

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains, from the newest complete checkpoint (True), a given one, or the beginning (None, False).

        Args:
            resume_from_checkpoint: Where to start; True with no complete checkpoint starts at the beginning.
            trial: As for `transformers.Trainer.train`.
            ignore_keys_for_eval: As for `transformers.Trainer.train`.

        Raises:
            ValueError: The folder is not a complete checkpoint.
        """
        checkpoint = last_checkpoint(self.output_dir) if resume_from_checkpoint is True else resume_from_checkpoint
        if checkpoint:
            missing = missing_files(checkpoint)
            if missing:
                raise ValueError(f"{checkpoint} is not a complete checkpoint: no {', no '.join(missing)}")
            # The interrupted run had its evaluation at the start; a second one would be logged at the resumed step.
            self.args.eval_on_start = False
        return super().train(str(checkpoint) if checkpoint else None, trial, ignore_keys_for_eval)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = self.output_dir / STAGING
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if self.state.best_global_step == self.state.global_step:
                # The parent noted the path inside the staging folder.
                self.state.best_model_checkpoint = str(self.output_dir / name)
                self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
            if (self.output_dir / name).exists():
                os.replace(self.output_dir / name, staging / "replaced")
            os.replace(staging / name, self.output_dir / name)
            shutil.rmtree(staging, ignore_errors=True)
            rotate_checkpoints(
                output_dir=str(self.output_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads nothing: a checkpoint has no card, and the parent would upload a pickle of the arguments."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leaves the card that the run wrote as it is."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if self.args.should_save:
            folder = self.output_dir if output_dir is None else Path(output_dir)
            save_weights(self.trained, self.processor, folder, state_dict=state_dict)
            Presentation(self.collator.template, self.collator.store.windowing).save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not isinstance(self.trained, PeftModel):
            load_projectors(self.trained, resume_from_checkpoint)
            return
        with safe_open(Path(resume_from_checkpoint) / "adapter_model.safetensors", framework="pt") as weights:
            stored = set(weights.keys())
        needed = set(get_peft_model_state_dict(self.trained, save_embedding_layers=False))
        if stored != needed:
            raise ValueError(
                f"{resume_from_checkpoint} is a checkpoint of another adapter: missing {sorted(needed - stored)[:3]}, "
                f"unexpected {sorted(stored - needed)[:3]}"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        logger.info("Loading the best checkpoint %s", best)
        self._load_from_checkpoint(best)
