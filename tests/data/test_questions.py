"""Question sets of both schemas -> records."""

import json
import multiprocessing
import os
import re
from collections import Counter
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moka.data.questions import FEATURES, fill_template, load_questions

ROW = {
    "video_id": "00000093",
    "question_id": 12,
    "type": '["Audio-Visual", "Counting"]',
    "question_content": "How many sounding <Object> in the video？",
    "templ_values": '["violin"]',
    "question_deleted": 0,
    "anser": "two",
}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, *rows: dict | str) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


words = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="<>？"), min_size=1, max_size=8)


@given(st.lists(st.tuples(words, words), max_size=5), words)
def test_templates_are_filled_in_order(pairs, tail):
    template = "".join(f"{text} <Object>" for text, _ in pairs) + f" {tail}？"
    expected = "".join(f"{text} {value}" for text, value in pairs) + f" {tail}?"
    assert fill_template(template, [value for _, value in pairs]) == expected.strip()


@given(st.integers(0, 4), st.integers(0, 4))
def test_as_many_values_as_placeholders(placeholders, values):
    template = "<LR> " * placeholders + "?"
    if placeholders == values:
        assert fill_template(template, ["left"] * values) == "left " * values + "?"
    else:
        with pytest.raises(ValueError, match=f"{placeholders} placeholders in .* but {values} templ_values"):
            fill_template(template, ["left"] * values)


def test_a_value_may_look_like_a_placeholder():
    assert fill_template("<A> and <B>.", ["<B>", "x"]) == "<B> and x."


@pytest.mark.parametrize("template", ["Is the <Object louder?", "Is 3 > 2?", "Is the < Object > louder?"])
def test_stray_angle_brackets_are_refused(template):
    with pytest.raises(ValueError, match="angle bracket"):
        fill_template(template, [])


def test_the_real_test_set(shared):
    path = shared / "data" / "music_avqa" / "avqa-test.json"
    questions = load_questions(path)
    assert questions.features == FEATURES
    assert len(questions) == 9129
    assert Counter(questions["type"]) == {
        "Audio/Counting": 1017,
        "Audio/Comparative": 594,
        "Visual/Counting": 1197,
        "Visual/Location": 1225,
        "Audio-Visual/Existential": 988,
        "Audio-Visual/Counting": 1265,
        "Audio-Visual/Location": 920,
        "Audio-Visual/Comparative": 1101,
        "Audio-Visual/Temporal": 822,
    }
    assert len(set(questions["answer"])) == 41
    assert not [question for question in questions["question"] if re.search("[<>？]|^ | $", question)]
    original = json.loads(path.read_text(encoding="utf-8"))
    assert sum("？" in row["question_content"] for row in original) == 427
    assert [str(row["question_id"]) for row in original] == questions["question_id"][:]
    assert questions[3] == {
        "question_id": "35",
        "question": "How many sounding violin in the video?",
        "answer": "three",
        "target": None,
        "type": "Audio-Visual/Counting",
        "image": None,
        "video": "00000100.mp4",
        "audio": "00000100.mp4",
    }
    assert all(question.endswith("?") for question in questions["question"])


def test_the_real_validation_set(shared):
    questions = load_questions(shared / "data" / "music_avqa" / "avqa-val.json", num_proc=2)
    assert len(questions) == 4568
    assert not any("<" in question for question in questions["question"])


def test_the_official_schemas_variants(tmp_path):
    variants = [
        ROW,
        {**ROW, "question_id": "13", "type": ["Audio", "Counting"], "templ_values": ["flute"]},
        {key: value for key, value in ROW.items() if key not in ("anser", "question_deleted")} | {"answer": "one"},
    ]
    path = write(tmp_path / "a.json", variants)
    questions = load_questions(path, video_pattern="clips/{video_id}.webm", audio_pattern="sound/{video_id}.wav")
    assert questions["type"][:] == ["Audio-Visual/Counting", "Audio/Counting", "Audio-Visual/Counting"]
    assert questions["question"][:][:2] == [
        "How many sounding violin in the video?",
        "How many sounding flute in the video?",
    ]
    assert questions["answer"][:] == ["two", "two", "one"]
    assert set(questions["video"]) == {"clips/00000093.webm"}
    assert set(questions["audio"]) == {"sound/00000093.wav"}
    assert set(load_questions(path)["audio"]) == {"00000093.mp4"}


def test_deleted_questions_are_left_out_and_counted(tmp_path, caplog):
    path = write(tmp_path / "a.json", [ROW, {**ROW, "question_id": 13, "question_deleted": 1}, ROW])
    for _ in range(2):
        caplog.clear()
        assert load_questions(path)["question_id"][:] == ["12", "12"]
        assert "1 of 3 questions are marked deleted" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templ_values": "[]"}, "1 placeholders in .* but 0 templ_values"),
        ({"templ_values": "nonsense"}, "templ_values is 'nonsense', which is not JSON"),
        ({"templ_values": '{"a": 1}'}, "must be a list of strings"),
        ({"type": "[1]"}, "type is .* must be a list of strings"),
        ({"answer": "three"}, "one answer is expected"),
        ({"anser": 2}, "answer is 2"),
        ({"question_content": " "}, "question_content is ' '"),
        ({"video_id": "../../secret"}, "must be a path inside the media folder"),
        ({"video_id": 93}, "video_id is 93"),
        ({"question_id": True}, "question_id is True"),
    ],
)
def test_bad_official_rows_name_their_place(tmp_path, change, message):
    path = write(tmp_path / "a.json", [ROW, {**ROW, **change}])
    with pytest.raises(ValueError, match=message) as error:
        load_questions(path)
    question_id = {**ROW, **change}["question_id"]
    assert str(error.value).startswith(f"{path}, row 1, question_id {question_id}: ")


def test_missing_keys_are_named(tmp_path):
    row = {key: value for key, value in ROW.items() if key != "templ_values"}
    with pytest.raises(ValueError, match=r"row 0, .*\['templ_values'\] are missing"):
        load_questions(write(tmp_path / "a.json", [row]))
    row = {key: value for key, value in ROW.items() if key != "anser"}
    with pytest.raises(ValueError, match="there is none"):
        load_questions(write(tmp_path / "b.json", [row]))


def test_errors_reach_the_user_from_other_processes(tmp_path):
    path = write(tmp_path / "a.json", [ROW, ROW, {**ROW, "templ_values": "[]"}])
    with pytest.raises(ValueError, match="row 2, question_id 12: 1 placeholders"):
        load_questions(path, num_proc=2)


def test_patterns_may_name_only_the_video(tmp_path):
    with pytest.raises(ValueError, match=r"may name only \{video_id\}"):
        load_questions(write(tmp_path / "a.json", [ROW]), video_pattern="{id}.mp4")


def test_lines_of_our_own(tmp_path):
    full = dict(
        zip(FEATURES, ["q1", "Où?", "là", "Je <b>sais</b>: là", "Audio/Counting", None, "v.mp4", "a.wav"], strict=True)
    )
    path = write_lines(
        tmp_path / "a.jsonl", full, "", {"question": "Who\u2028is it?"}, {"question_id": 7, "question": "?"}, ""
    )
    questions = load_questions(path)
    assert questions.features == FEATURES
    assert questions[0] == full
    assert questions[1] == {**dict.fromkeys(FEATURES), "question_id": "2", "question": "Who\u2028is it?", "type": ""}
    assert questions[2]["question_id"] == "7"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "anser": "x"}, r"unknown keys \['anser'\]; the keys are \['question_id', 'question'"),
        ({"answer": "x"}, "question is None"),
        ({"question": ""}, "question is ''"),
        ({"question": "?", "answer": 2}, "answer is 2, it must be a text or null"),
        ({"question": "?", "video": "/data/a.mp4"}, "video is '/data/a.mp4'"),
        ({"question": "?", "audio": ""}, "audio is ''"),
        ("{broken", "not JSON"),
        ("[1]", "an object is expected, this is a list"),
    ],
)
def test_bad_lines_name_their_place(tmp_path, row, message):
    path = write_lines(tmp_path / "a.jsonl", {"question": "?"}, row)
    with pytest.raises(ValueError, match=message) as error:
        load_questions(path)
    assert str(error.value).startswith(f"{path}, row 1")


@pytest.mark.parametrize(
    ("content", "schema", "message"),
    [
        (b"", "auto", "the file is empty"),
        (b"a,b\n", "auto", "neither a JSON list"),
        (b"[1", "auto", "not JSON"),
        (b"[]", "auto", "has no rows"),
        (b"\n\n", "jsonl", "has no rows"),
        (b"{}", "music_avqa", "is a JSON list, this is a dict"),
        (b'{"question": "\xff"}', "auto", "not UTF-8"),
        (b"{}", "avqa", "schema is 'avqa'"),
    ],
)
def test_files_that_are_no_question_sets(tmp_path, content, schema, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_questions(tmp_path / "a.json", schema=schema)


def test_patterns_are_not_for_lines(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"question": "?"})
    for options in ({"audio_pattern": "{video_id}.wav"}, {"video_pattern": "{video_id}.avi"}):
        with pytest.raises(ValueError, match="name their media themselves"):
            load_questions(path, **options)


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([ROW]).encode())
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "?"}')
    assert len(load_questions(tmp_path / "a.json")) == len(load_questions(tmp_path / "a.jsonl")) == 1


def test_loading_is_cached_until_the_file_changes(tmp_path, monkeypatch):
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    path = write(tmp_path / "a.json", [ROW])
    monkeypatch.chdir(tmp_path)
    first = load_questions(path)
    files = sorted(cache.rglob("*.arrow"))
    again = load_questions(path)
    assert again[:] == first[:]
    assert again._fingerprint == first._fingerprint
    assert sorted(cache.rglob("*.arrow")) == files
    assert len(files) == 2  # the rows as they are, and the records
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    assert load_questions(copy)._fingerprint == first._fingerprint
    copy.unlink()
    write(path, [{**ROW, "anser": "nine"}])
    assert load_questions(path)["answer"][:] == ["nine"]
    assert os.listdir(tmp_path) == ["a.json"]


def _load(path: Path, cache: Path, answers: multiprocessing.Queue) -> None:
    datasets.config.HF_DATASETS_CACHE = cache
    answers.put(load_questions(path)["question_id"][:])


def test_two_processes_may_load_at_once(tmp_path):
    path = write(tmp_path / "a.json", [{**ROW, "question_id": i} for i in range(3000)])
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_load, args=(path, tmp_path / "cache", answers)) for _ in range(3)]
    for process in processes:
        process.start()
    loaded = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert loaded == [[str(i) for i in range(3000)]] * 3
