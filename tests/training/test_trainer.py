"""What a step does: who learns, with which loss, at which precision."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from moka.training import MokaTrainer, finetune, pretrain
from moka.training.components import build_collator, build_model, load_question_set
from tests.training.conftest import World


def metrics(output_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def losses(output_dir: Path) -> list[float]:
    return [event["loss"] for event in metrics(output_dir) if "loss" in event]


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    name = (
        "adapter_model.safetensors"
        if (output_dir / "adapter_model.safetensors").exists()
        else "projectors.safetensors"
    )
    return load_file(output_dir / name)


def trainer_of(world: World, output_dir: Path, **changes: Any) -> MokaTrainer:
    arguments = world.arguments(output_dir, **changes)
    model, processor = build_model(arguments)
    collator = build_collator(arguments.data, processor)
    rows = load_question_set(arguments.data.questions, arguments.data, collator, captions=False).rows
    return MokaTrainer(
        model=model, args=arguments.training, data_collator=collator, train_dataset=rows, processing_class=processor
    )


@pytest.mark.parametrize("adapter", ["moka", "none"])
def test_every_trainable_weight_changes_and_no_frozen_one_does(world: World, tmp_path: Path, adapter: str) -> None:
    trainer = trainer_of(world, tmp_path, adapter=adapter, save_strategy="no", save_steps=None)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == set(before) - trained
    assert {"vision_projector" in name for name in trained} == {True, False}
    assert any("moka_A" in name for name in trained) == (adapter == "moka")
    assert not any("tower" in name or "embed_tokens" in name or "lm_head" in name for name in trained)


def test_the_same_seed_gives_the_same_losses_and_weights_and_another_does_not(world: World, tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        finetune(world.arguments(tmp_path / name, seed=seed, max_steps=3))
    assert losses(tmp_path / "one") == losses(tmp_path / "two") != losses(tmp_path / "three")
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_accumulated_micro_batches_equal_one_large_batch(world: World, tmp_path: Path) -> None:
    common = world.no_dropout | {"max_steps": 3}
    finetune(world.arguments(tmp_path / "large", per_device_train_batch_size=4, **common))
    finetune(
        world.arguments(tmp_path / "small", per_device_train_batch_size=1, gradient_accumulation_steps=4, **common)
    )
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "large"), rel=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_nothing_but_memory(world: World, tmp_path: Path, reentrant: bool) -> None:
    common = world.no_dropout | {"max_steps": 2}
    finetune(world.arguments(tmp_path / "plain", **common))
    kwargs = json.dumps({"use_reentrant": reentrant})
    trainer = finetune(
        world.arguments(
            tmp_path / "saving", activation_checkpointing=True, activation_checkpointing_kwargs=kwargs, **common
        )
    )
    assert trainer.model.get_base_model().is_activation_checkpointing
    assert losses(tmp_path / "saving") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    plain, saving = weights(tmp_path / "plain"), weights(tmp_path / "saving")
    for name in plain:
        torch.testing.assert_close(saving[name], plain[name], rtol=1e-3, atol=1e-5)


def test_bf16_keeps_the_base_in_bfloat16_and_trains_float32(world: World, tmp_path: Path) -> None:
    trainer = finetune(world.arguments(tmp_path, bf16=True, max_steps=2))
    kinds = {parameter.requires_grad: set() for parameter in trainer.model.parameters()}
    for parameter in trainer.model.parameters():
        kinds[parameter.requires_grad].add(parameter.dtype)
    assert kinds[True] == {torch.float32}
    base = trainer.model.get_base_model()
    assert base.lm_head.weight.dtype == torch.bfloat16
    assert all(torch.isfinite(torch.tensor(losses(tmp_path))))


def test_the_evaluation_loss_is_measured_and_logged(world: World, tmp_path: Path) -> None:
    arguments = world.arguments(
        tmp_path, eval_questions=world.folder / "eval.jsonl", eval_strategy="steps", eval_steps=2, max_steps=4
    )
    trainer = finetune(arguments)
    logged = [event["eval_loss"] for event in metrics(tmp_path) if "eval_loss" in event]
    assert len(logged) == 2
    assert trainer.evaluate()["eval_loss"] == logged[-1]


def test_stage_1_trains_projectors_on_captions_and_stage_2_starts_from_them(world: World, tmp_path: Path) -> None:
    stage_1 = pretrain(world.stage_1(tmp_path / "projectors", max_steps=3))
    assert not isinstance(stage_1.model, PeftModel)
    assert not (tmp_path / "projectors" / "adapter_config.json").exists()
    model, _ = build_model(world.arguments(tmp_path / "next", projectors=tmp_path / "projectors"))
    started = dict(model.get_base_model().named_parameters())
    trained = {name: weight for name, weight in stage_1.model.named_parameters() if weight.requires_grad}
    assert {name.split("_projector.")[0] for name in trained} == {"model.vision", "model.audio"}
    for name, weight in trained.items():
        assert torch.equal(started[name.replace("_projector.", "_projector.modules_to_save.default.")], weight), name


def test_a_model_without_trainable_weights_is_refused(world: World, tmp_path: Path) -> None:
    arguments = world.arguments(tmp_path, adapter="none")
    model, processor = build_model(arguments)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        MokaTrainer(model=model, args=arguments.training, data_collator=None, processing_class=processor)


def test_without_a_media_cache_nothing_is_kept_and_nothing_changes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOKA_CACHE", str(tmp_path / "cache"))
    finetune(world.arguments(tmp_path / "off", media_cache="off", max_steps=2))
    assert not (tmp_path / "cache" / "media").exists()
    finetune(world.arguments(tmp_path / "default", media_cache=None, max_steps=2))
    assert list((tmp_path / "cache" / "media").iterdir())
    assert losses(tmp_path / "off") == losses(tmp_path / "default")
