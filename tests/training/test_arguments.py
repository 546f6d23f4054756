"""Settings: YAML below the command line, and everything that is not understood refused by name."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from moka.training import Arguments, ConfigError, parse_arguments

REQUIRED = {"language_model": "lm", "vision_tower": "clip", "questions": "q.jsonl", "media": "m", "output_dir": "out"}
REPOSITORY = Path(__file__).resolve().parents[2]


def parse(tmp_path: Path, yaml_text: str = "", *argv: str, **required: str) -> Arguments:
    config = tmp_path / "config.yaml"
    given = {line.split(":")[0] for line in yaml_text.splitlines()}
    keys = {key: value for key, value in (REQUIRED | required).items() if key not in given}
    config.write_text(yaml_text + "\nuse_cpu: true\n" + "".join(f"{key}: {value}\n" for key, value in keys.items()))
    return parse_arguments(["--config", str(config), *argv])


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    arguments = parse(tmp_path, "r: 8\nalpha: 32", "--r", "2", "--window_seconds=1.5", "--bf16")
    assert (arguments.adapter.r, arguments.adapter.alpha, arguments.adapter.dropout) == (2, 32, 0.05)
    assert arguments.data.window_seconds == 1.5
    assert arguments.training.bf16 is True


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("2.5e-05", 2.5e-5), ("-1e+3", -1000.0), (".5", 0.5), ("3", 3), ('"1e-3"', 1e-3)],
)
def test_numbers_mean_what_they_look_like(tmp_path: Path, text: str, value: float) -> None:
    assert parse(tmp_path, f"learning_rate: {text}").training.learning_rate == value


def test_no_is_a_word_where_a_word_is_expected_and_false_where_a_truth_value_is(tmp_path: Path) -> None:
    training = parse(tmp_path, "eval_strategy: no\nsave_strategy: no\nbf16: no\ndisable_tqdm: yes").training
    assert (training.eval_strategy, training.save_strategy) == ("no", "no")
    assert (training.bf16, training.disable_tqdm) == (False, True)


def test_mappings_come_from_yaml_or_as_json(tmp_path: Path) -> None:
    arguments = parse(
        tmp_path,
        "vision_projector: {type: mlp}\nprompt:\n  question: 'Q: {question}'",
        "--audio_projector",
        '{"type": "qformer", "num_queries": 4}',
        "--modalities",
        '{"text": [0], "media": [1, 2, 3]}',
    )
    assert arguments.model.vision_projector == {"type": "mlp"}
    assert arguments.model.audio_projector == {"type": "qformer", "num_queries": 4}
    assert arguments.data.prompt == {"question": "Q: {question}"}
    assert arguments.adapter.modalities == {"text": [0], "media": [1, 2, 3]}


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPS", "/data/clips")
    monkeypatch.setenv("HOME", "/home/somebody")
    arguments = parse(tmp_path, "media: $CLIPS/train", "--questions", "~/${CLIPS}.json", "--language_model=~/llama")
    assert arguments.data.media == "/data/clips/train"
    assert arguments.data.questions == "/home/somebody//data/clips.json"
    assert arguments.model.language_model == "/home/somebody/llama"


def test_everything_is_recorded_and_can_be_given_back(tmp_path: Path) -> None:
    first = parse(
        tmp_path,
        "vision_projector: {type: mlp}\nlearning_rate: 1e-4\ntarget_modules: [q_proj]\nresume_from_checkpoint: true",
    )
    recorded = first.to_dict()
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recorded))
    again = parse_arguments(["--config", str(tmp_path / "again.yaml")])
    assert again.to_dict() == recorded
    assert recorded["target_modules"] == ["q_proj"]
    assert "hub_token" not in recorded


@pytest.mark.parametrize(
    ("yaml_text", "argv", "message"),
    [
        ("learning_rat: 1", [], r"config\.yaml: unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
        (
            "",
            ["--windowseconds", "1"],
            "command line: unknown option '--windowseconds'; did you mean 'window_seconds'",
        ),
        ("", ["--learning-rat=1"], "did you mean 'learning_rate'"),
        ("", ["--learning_r", "1"], "unknown option '--learning_r'"),
        ("", ["stray"], "'stray' belongs to no option"),
        ("r: four", [], r"config\.yaml: r: expected a whole number, got 'four'"),
        ("r: 1.5", [], r"config\.yaml: r: expected a whole number, got 1\.5"),
        ("r: true", [], r"config\.yaml: r: expected a whole number, got True"),
        ("bf16: 3", [], r"config\.yaml: bf16: expected true or false, got 3"),
        ("media: 7", [], r"config\.yaml: media: expected text, got 7"),
        ("media: [a, b]", [], r"config\.yaml: media: expected text"),
        ("target_modules: q_proj", [], r"config\.yaml: target_modules: expected .*list.*, got 'q_proj'"),
        ("adapter: lora", [], r"config\.yaml: adapter: expected 'moka' or 'none', got 'lora'"),
        ("lr_scheduler_type: cosin", [], r"config\.yaml: lr_scheduler_type: expected .*'cosine'.*, got 'cosin'"),
        ("vision_projector: mlp", [], "vision_projector: 'mlp' is not JSON"),
        ("", ["--r", "four"], "command line: argument --r: invalid int value: 'four'"),
        ("", ["--adapter", "lora"], "command line: argument --adapter: invalid choice: 'lora'"),
        ("", ["--prompt", "[1]"], r"prompt: expected a mapping, got \[1\]"),
        (
            "r: 1\nr: 2",
            [],
            r"config\.yaml., line 2: key 'r' is given twice|config\.yaml, line 2: key 'r' is given twice",
        ),
        ("vision_projector: {type: mlp, type: qformer}", [], "key 'type' is given twice"),
        ("r: [1", [], r"config\.yaml: not readable as YAML"),
        ("media: $NO_SUCH_VARIABLE/x", [], r"config\.yaml: media: .* uses \$NO_SUCH_VARIABLE, which is not set"),
        ("", ["--media", "${NO_SUCH}"], r"command line: media: .* uses \$\{NO_SUCH, which is not set"),
        ("max_media_failures: 2", [], "max_media_failures: expected a share from 0 to 1, got 2"),
        ("remove_unused_columns: true", [], "remove_unused_columns: must stay false"),
        ("label_smoothing_factor: 0.1", [], "label_smoothing_factor: must stay 0, got 0.1"),
        ("eval_questions: e.jsonl", [], "eval_questions: nothing reads them while eval_strategy is no"),
        ("eval_strategy: epoch", [], "eval_strategy: epoch needs eval_questions"),
        ("vision_tower: null", [], "give vision_tower, audio_tower or both"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, yaml_text: str, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(tmp_path, yaml_text, *argv)


def test_missing_keys_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing: language_model, media, output_dir; give each"):
        parse_arguments(["--vision_tower", "clip", "--questions", "q"])
    with pytest.raises(ConfigError, match=r"no such file: .*absent\.yaml"):
        parse_arguments(["--config", str(tmp_path / "absent.yaml")])


def test_stage_1_has_no_adapter_keys(tmp_path: Path) -> None:
    argv = [word for key, value in REQUIRED.items() for word in (f"--{key}", value)]
    assert parse_arguments(argv, adapter=False).adapter is None
    with pytest.raises(ConfigError, match="unknown option '--r'"):
        parse_arguments([*argv, "--r", "4"], adapter=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("false", False), ("null", False), ("runs/checkpoint-4", "runs/checkpoint-4")],
)
def test_resume_takes_true_false_or_a_folder(tmp_path: Path, value: str, expected: bool | str) -> None:
    assert parse(tmp_path, f"resume_from_checkpoint: {value}").training.resume == expected
    if value != "null":
        assert parse(tmp_path, "", "--resume_from_checkpoint", value).training.resume == expected


def test_the_frozen_weights_number_format_follows_bf16_unless_given(tmp_path: Path) -> None:
    assert parse(tmp_path).dtype == "float32"
    assert parse(tmp_path, "bf16: true").dtype == "bfloat16"
    assert parse(tmp_path, "bf16: true\ndtype: float32").dtype == "float32"


@pytest.mark.parametrize("script", ["finetune", "pretrain"])
def test_the_scripts_print_help_and_one_line_for_a_bad_setting(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(REPOSITORY / "train" / f"{script}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(path, run_name="__main__")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--config", "--language_model", "--eval_questions", "--learning_rate"):
        assert option in text
    assert ("--cross_weight" in text) == (script == "finetune")
    monkeypatch.setattr(sys, "argv", [path, "--learning_rat", "1"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(path, run_name="__main__")
    assert str(stopped.value.code).startswith(
        f"{script}.py: command line: unknown option '--learning_rat'; did you mean"
    )
