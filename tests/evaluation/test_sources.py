"""The adapter's folder, its data_config.json and the question set."""

import dataclasses
import json
from pathlib import Path

import pytest

from moka.data import PromptTemplate, Windowing
from moka.evaluation import EvaluationArguments, EvaluationError
from moka.evaluation.sources import (
    adapter_folder,
    backbones,
    read_presentation,
    read_questions,
    refuse_duplicates,
)

PROMPT = PromptTemplate(question="Q: {question}")
WINDOWING = Windowing(num_frames=3)


def arguments(questions: Path, **values: str) -> EvaluationArguments:
    return EvaluationArguments(task="music_avqa", adapter="a", questions=str(questions), media="m", **values)


def test_presentation_is_the_adapters_unless_overridden(tmp_path: Path) -> None:
    content = {"prompt": dataclasses.asdict(PROMPT), "windowing": dataclasses.asdict(WINDOWING)}
    (tmp_path / "data_config.json").write_text(json.dumps(content))
    presentation = read_presentation(tmp_path, None)
    assert (presentation.prompt, presentation.windowing) == (PROMPT, WINDOWING)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"prompt": {}, "windowing": {"num_windows": 4}}))
    presentation = read_presentation(tmp_path, str(other))
    assert (presentation.prompt, presentation.windowing) == (PromptTemplate(), Windowing(num_windows=4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing: .*--data-config"),
        ("{", "data_config.json"),
        ("[]", "data_config.json"),
        ('{"prompt": {}}', r"the keys are \['prompt'\]"),
        ('{"prompt": {"answr": ""}, "windowing": {}}', "answr"),
        ('{"prompt": {}, "windowing": {"num_frames": 0}}', "num_frames is 0"),
    ],
)
def test_data_config_that_cannot_be_used(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "data_config.json").write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_presentation(tmp_path, None)


def test_adapter_folder_must_hold_a_trained_model(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no config\.json"):
        adapter_folder(str(tmp_path))
    for name in (tmp_path / "missing", "./missing/adapter", "missing"):
        with pytest.raises(EvaluationError, match="no such folder"):
            adapter_folder(str(name))
    with pytest.raises(EvaluationError, match="not found on the hub"):
        adapter_folder("nobody/nothing")
    (tmp_path / "config.json").write_text("{}")
    assert adapter_folder(str(tmp_path)) == tmp_path


def test_backbones_given_replace_the_adapters_own(tmp_path: Path) -> None:
    own = {"language_model": "llama", "vision_tower": "clip", "audio_tower": None}
    (tmp_path / "config.json").write_text(json.dumps({"backbones": own}))
    assert backbones(tmp_path, arguments(tmp_path)) == own
    assert backbones(tmp_path, arguments(tmp_path, vision_tower="big"))["vision_tower"] == "big"


def test_duplicate_ids_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"question_id": name, "question": "?"}) + "\n" for name in "abca"))
    with pytest.raises(EvaluationError, match=r"set.jsonl: .*'a' in rows \[0, 3\]"):
        read_questions(arguments(path))
    with pytest.raises(EvaluationError, match="and 2 more"):
        refuse_duplicates(list("abcdefg") * 2, "set")


def test_question_set_that_breaks_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "?", "anwser": "yes"}\n')
    with pytest.raises(EvaluationError, match=r"set\.jsonl, row 0.*anwser"):
        read_questions(arguments(path))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_questions(arguments(tmp_path / "none.jsonl"))


def test_official_json_with_its_media_patterns(tmp_path: Path) -> None:
    row = {"video_id": "00000093", "question_id": 12, "type": '["Audio", "Counting"]', "templ_values": '["cello"]'}
    row |= {"question_content": "Is the <Object> heard？", "question_deleted": 0, "anser": "yes"}
    path = tmp_path / "avqa.json"
    path.write_text(json.dumps([row]))
    (record,) = read_questions(arguments(path, video_pattern="v/{video_id}.avi", audio_pattern="a/{video_id}.wav"))
    assert (record["video"], record["audio"]) == ("v/00000093.avi", "a/00000093.wav")
    assert (record["question_id"], record["type"], record["answer"]) == ("12", "Audio/Counting", "yes")
    with pytest.raises(EvaluationError, match="row 0: an object is expected"):
        read_questions(arguments(path, schema="jsonl"))
