"""What the command line accepts, and where results go."""

from pathlib import Path

import pytest

from moka.evaluation import EvaluationArguments, EvaluationError, parse_arguments

REQUIRED = ["--task", "music_avqa", "--adapter", "runs/a", "--questions", "sets/test.json", "--media", "clips"]


def test_every_spelling_of_the_issue_is_understood() -> None:
    numbers = ["--batch-size", "3", "--max-new-tokens", "7", "--limit", "2"]
    flags = ["--allow-media-failures", "--overwrite"]
    names = ["--modalities", "audio, text", "--media-cache", "cache", "--language-model", "big"]
    arguments = parse_arguments([*REQUIRED, *numbers, *flags, *names])
    assert arguments.modality_names == ("text", "audio")
    assert (arguments.batch_size, arguments.max_new_tokens, arguments.limit) == (3, 7, 2)
    assert arguments.allow_media_failures
    assert arguments.overwrite
    assert (arguments.media_cache, arguments.language_model) == ("cache", "big")
    assert parse_arguments(REQUIRED).modality_names == ("text", "visual", "audio")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modalities", "text,smell"], "'smell' is unknown; the modalities are text, visual, audio"),
        (["--modalities", "audio,visual"], "lacks text"),
        (["--modalities", ""], "'' is unknown"),
        (["--task", "music"], "'music' is unknown; the tasks are music_avqa"),
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--limit", "-1"], "--limit is -1"),
    ],
)
def test_values_that_cannot_be_used(options: list[str], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        parse_arguments([*REQUIRED, *options])


def test_unknown_option_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*REQUIRED, "--modality", "text"])
    assert "--modality" in capsys.readouterr().err


def test_output_folder_names_task_questions_and_what_is_given(tmp_path: Path) -> None:
    def folder(**values: str) -> Path:
        required = {
            "task": "music_avqa",
            "adapter": str(tmp_path),
            "questions": "sets/avqa-test.json",
            "media": "clips",
        }
        return EvaluationArguments(**{**required, **values}).output_folder()  # type: ignore[arg-type]

    assert folder() == tmp_path / "eval" / "music_avqa-avqa-test"
    assert folder(modalities="text") == tmp_path / "eval" / "music_avqa-avqa-test-text"
    assert folder(modalities="audio,text") == tmp_path / "eval" / "music_avqa-avqa-test-text-audio"
    assert folder(modalities="text,visual,audio") == folder()
    assert folder(questions="moka-tiny/test.jsonl") == tmp_path / "eval" / "music_avqa-test"
    assert folder(output="here") == Path("here")
    with pytest.raises(EvaluationError, match="--output"):
        folder(adapter="somebody/adapter")
