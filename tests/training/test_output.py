"""The output folder: complete by itself, loadable by one call, with a model card."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel

from moka.data import PromptTemplate, QuestionCollator, Windowing
from moka.omni import load_adapter
from moka.training import ConfigError, MokaTrainer, finetune, parse_arguments, pretrain
from tests.training.conftest import World, write_jsonl


@pytest.fixture(scope="module", params=["stage 2", "stage 1"])
def trained(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MokaTrainer, Path]:
    output_dir = tmp_path_factory.mktemp("output") / "run"
    prompt = json.dumps({"question": "question : {question}"})
    if request.param == "stage 2":
        return finetune(world.arguments(output_dir, prompt=prompt, r=3, max_steps=3)), output_dir
    return pretrain(world.stage_1(output_dir, prompt=prompt, max_steps=3)), output_dir


def test_one_call_loads_the_trained_model(trained: tuple[MokaTrainer, Path], world: World) -> None:
    trainer, output_dir = trained
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    trainer.model.eval()
    for folder in (output_dir, output_dir / "checkpoint-3"):
        model, processor = load_adapter(folder)
        collator = QuestionCollator(processor, trainer.data_collator.store, trainer.data_collator.template, train=True)
        again = collator([trainer.train_dataset[0], trainer.train_dataset[1]])
        assert torch.equal(again["input_ids"], batch["input_ids"])
        with torch.no_grad():
            expected, found = trainer.model(**batch), model(**again)
        assert torch.equal(found.logits, expected.logits)
        assert model.config.to_dict().get("use_cache") is not False


def test_the_folder_holds_what_evaluation_must_repeat(trained: tuple[MokaTrainer, Path]) -> None:
    _, output_dir = trained
    content = json.loads((output_dir / "data_config.json").read_text())
    assert Windowing(**content["windowing"]) == Windowing(num_frames=2, num_windows=2, window_seconds=0.3)
    assert PromptTemplate(**content["prompt"]) == PromptTemplate(question="question : {question}")


def test_the_recorded_arguments_repeat_the_run(trained: tuple[MokaTrainer, Path]) -> None:
    _, output_dir = trained
    recorded = yaml.safe_load((output_dir / "training_config.yaml").read_text())
    again = parse_arguments(["--config", str(output_dir / "training_config.yaml")], adapter="r" in recorded)
    assert again.to_dict() == recorded
    assert recorded["learning_rate"] == 0.01


def test_every_log_event_is_one_line(trained: tuple[MokaTrainer, Path]) -> None:
    trainer, output_dir = trained
    events = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert events == trainer.state.log_history
    steps = [event for event in events if "loss" in event]
    assert [event["step"] for event in steps] == [1, 2, 3]
    assert all({"epoch", "loss", "grad_norm", "learning_rate"} <= event.keys() for event in steps)


def test_the_model_card_tells_how_to_load_and_what_was_trained(
    trained: tuple[MokaTrainer, Path], world: World
) -> None:
    trainer, output_dir = trained
    card = (output_dir / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert "moka" in front["tags"]
    adapted = front["library_name"] == "peft"
    assert adapted == (output_dir / "adapter_config.json").exists()
    for part in (
        "import moka",
        "load_adapter(",
        "2506.05191",
        "licences apply",
        "learning_rate | 0.01",
        "text, image, video, audio",
    ):
        assert part in card
    assert ("| r | 3 |" in card) == adapted
    assert str(world.folder / "language_model") in card
    last = [event["loss"] for event in trainer.state.log_history if "loss" in event][-1]
    assert f"{last:.4f}" in card


def test_nothing_unfinished_or_pickled_is_left(trained: tuple[MokaTrainer, Path]) -> None:
    _, output_dir = trained
    names = {path.name for path in output_dir.iterdir()}
    assert not {name for name in names if name.startswith(".") or name.endswith((".bin", ".pt", ".pth"))}
    assert ("projectors.safetensors" in names) != ("adapter_model.safetensors" in names)


def test_unreadable_media_are_logged_skipped_and_counted(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in (world.folder / "train.jsonl").read_text().splitlines()]
    rows[5]["video"] = rows[5]["audio"] = "absent.mp4"
    questions = write_jsonl(tmp_path / "questions.jsonl", rows)
    with caplog.at_level("INFO", logger="moka"):
        trainer = finetune(world.arguments(tmp_path / "run", questions=questions, max_media_failures=0.1, max_steps=1))
    assert len(trainer.train_dataset) == 11
    assert "q5" not in trainer.train_dataset["question_id"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("row 5 (q5)" in text and "absent.mp4" in text and "no such file" in text for text in warnings)
    assert any("11 rows, 1 left out" in record.getMessage() for record in caplog.records)
    assert "1 rows were left out" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(ConfigError, match=r"1 of 12 rows cannot be read, more than max_media_failures 0\.01"):
        finetune(world.arguments(tmp_path / "strict", questions=questions, max_steps=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": "absent.jsonl"}, "no such file or folder: absent.jsonl"),
        ({"prompt": '{"quesiton": "{question}"}'}, "prompt: unknown field 'quesiton'; did you mean 'question'"),
        ({"prompt": '{"question": "no slot"}'}, "prompt: prompt part question is 'no slot'"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"language_model": "/absent"}, "/absent"),
        ({"vision_projector": '{"sort": "mlp"}'}, "vision_projector: unknown field 'sort'"),
        (
            {"projectors": "/absent"},
            r"/absent holds no projectors: there is no such folder .* train/pretrain\.py",
        ),
        ({"r": 0}, "r must be"),
    ],
)
def test_data_settings_that_cannot_be_used_are_refused(
    world: World, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        finetune(world.arguments(tmp_path / "run", **changes))


def test_a_row_without_anything_to_learn_is_refused_by_row(world: World, tmp_path: Path) -> None:
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "how many ?", "answer": "one"}, {"question": "how ?"}])
    with pytest.raises(ConfigError, match=r"q\.jsonl: row 1 .* has no target or answer"):
        finetune(world.arguments(tmp_path / "run", questions=questions))
    with pytest.raises(ConfigError, match=r"q\.jsonl: row 0 .* has no target \(stage 1 trains on captions\)"):
        pretrain(world.stage_1(tmp_path / "run", questions=questions))


def test_the_finished_folder_is_pushed_once_with_its_card(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = []
    hub = SimpleNamespace(
        upload_folder=lambda folder_path, **_: uploads.append({path.name for path in Path(folder_path).iterdir()})
    )
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    monkeypatch.setattr(MokaTrainer, "init_hf_repo", lambda self, **_: setattr(self, "hub_model_id", "somebody/run"))
    finetune(world.arguments(tmp_path / "run", push_to_hub=True, hub_model_id="somebody/run", max_steps=2))
    assert len(uploads) == 1
    assert {"adapter_model.safetensors", "config.json", "data_config.json", "README.md"} <= uploads[0]
    assert not any(name.endswith((".bin", ".pt")) for name in uploads[0])
    assert "import moka" in (tmp_path / "run" / "README.md").read_text()


def test_the_saved_config_does_not_turn_the_cache_off(trained: tuple[MokaTrainer, Path]) -> None:
    _, output_dir = trained
    assert json.loads((output_dir / "config.json").read_text()).get("use_cache") is not False


def test_a_question_that_forges_a_token_is_refused_before_training(world: World, tmp_path: Path) -> None:
    rows = [{"question": "how many ?", "answer": "one"}, {"question": "how </s> many ?", "answer": "one"}]
    questions = write_jsonl(tmp_path / "q.jsonl", rows)
    with pytest.raises(ConfigError, match=r"q\.jsonl: row 1: .*</s>"):
        finetune(world.arguments(tmp_path / "run", questions=questions))


def test_a_question_set_that_breaks_its_schema_is_a_config_error(world: World, tmp_path: Path) -> None:
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "how many ?", "anwser": "one"}])
    with pytest.raises(ConfigError, match="anwser"):
        finetune(world.arguments(tmp_path / "run", questions=questions))


def test_weights_of_an_earlier_run_of_another_kind_do_not_stay(world: World, tmp_path: Path) -> None:
    finetune(world.arguments(tmp_path / "run", max_steps=1, save_strategy="no"))
    finetune(world.arguments(tmp_path / "run", max_steps=1, save_strategy="no", adapter="none"))
    model, _ = load_adapter(tmp_path / "run")
    assert not isinstance(model, PeftModel)
