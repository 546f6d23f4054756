"""Building: everything loads with the public classes, builds resume, and a seed gives the same files."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, CLIPVisionModel, PreTrainedTokenizerFast

from moka.data import MediaStore, QuestionCollator, load_questions
from moka.data.tiny import MICRO, WINDOWING, build_world, resolve
from moka.data.tiny.build import BUILDERS
from moka.data.tiny.captions import PROMPT
from moka.omni import assemble


def digests(world: dict[str, Path]) -> dict[str, str]:
    files = [file for path in world.values() for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {file.name + file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_one_seed_gives_the_same_questions_frames_and_weights(micro_world: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(123)  # the caller's random state must not matter
    threads = torch.get_num_threads()
    again = build_world(MICRO, tmp_path, list(BUILDERS))
    assert torch.get_num_threads() == threads
    for name in ("train.jsonl", "val.jsonl", "test.jsonl", "captions.jsonl"):
        assert again[name].read_bytes() == micro_world[name].read_bytes()
    for name in ("llama", "qwen2", "vision", "audio"):
        weights = (Path(world[name], "model.safetensors").read_bytes() for world in (again, micro_world))
        assert len(set(weights)) == 1, name
    for clip in sorted(again["media"].iterdir()):
        other = micro_world["media"] / clip.name
        assert clip.read_bytes() == other.read_bytes()


def test_building_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    build_world(MICRO, tmp_path, ["llama"])
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_another_world(micro_world: dict[str, Path], tmp_path: Path) -> None:
    other = build_world(replace(MICRO, seed=1), tmp_path, ["train.jsonl"])
    assert other["train.jsonl"].read_bytes() != micro_world["train.jsonl"].read_bytes()
    assert replace(MICRO, seed=1).key != MICRO.key != replace(MICRO, language_steps=9).key


def test_finished_artefacts_are_kept_and_an_interrupted_one_is_finished(
    micro_world: dict[str, Path], tmp_path: Path
) -> None:
    partial = tmp_path / ".media.partial"
    partial.mkdir()
    kept = partial / "train_00000.mp4"
    kept.write_bytes((micro_world["media"] / "train_00000.mp4").read_bytes())
    stamp = kept.stat().st_mtime_ns
    broken = tmp_path / ".llama.partial"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    world = build_world(MICRO, tmp_path, ["media", "llama"])
    assert (world["media"] / "train_00000.mp4").stat().st_mtime_ns == stamp
    assert len(list(world["media"].iterdir())) == MICRO.train_scenes + MICRO.val_scenes + MICRO.test_scenes
    AutoModelForCausalLM.from_pretrained(world["llama"])
    before = digests(world)
    build_world(replace(MICRO, language_steps=1), tmp_path, ["media", "llama"])
    assert digests(world) == before


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_language_models_load_and_their_tokenizers_know_the_world(micro_world: dict[str, Path], family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(micro_world[family])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(micro_world[family])
    assert model.config.model_type == family
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    assert (tokenizer.chat_template is None) == (family == "llama")
    text = "Is there a violin sound?\n<answer> yes </answer>"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces = [text[start:end].strip(" ") for start, end in encoded["offset_mapping"]]
    assert [piece for piece in pieces if piece] == text.replace("?\n", " ? \n ").split(" ")
    assert "<answer> yes </answer>" in tokenizer.decode(encoded["input_ids"], skip_special_tokens=True)


def test_the_word_tokenizer_marks_unknown_words_and_starts_with_bos(micro_world: dict[str, Path]) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(micro_world["llama"])
    assert tokenizer("a zebra")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("zebra", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    assert tokenizer.unk_token_id not in tokenizer("How many instruments are sounding in the video?")["input_ids"]


def test_question_sets_load_and_name_clips_that_exist(micro_world: dict[str, Path]) -> None:
    for name in ("train", "val", "test"):
        rows = load_questions(micro_world[f"{name}.jsonl"])
        assert len(rows) > 0
        assert {row["video"] for row in rows} <= {file.name for file in micro_world["media"].iterdir()}
        assert all(row["audio"] == row["video"] and row["answer"] for row in rows)
    captions = load_questions(micro_world["captions.jsonl"])
    assert all((row["video"] is None) != (row["audio"] is None) and row["target"] for row in captions)


def test_towers_load(micro_world: dict[str, Path]) -> None:
    tower = CLIPVisionModel.from_pretrained(micro_world["vision"])
    assert tower.config.image_size == 48


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="moka-tiny/violin"):
        resolve("moka-tiny/violin")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_backbones_assemble_into_a_model_that_answers(
    micro_world: dict[str, Path], family: str, tmp_path: Path
) -> None:
    towers = {"vision_tower": str(micro_world["vision"]), "audio_tower": str(micro_world["audio"])}
    model, processor = assemble(str(micro_world[family]), **towers)
    store = MediaStore(micro_world["media"], processor, WINDOWING, tmp_path)
    rows = load_questions(micro_world["test.jsonl"])
    collator = QuestionCollator(processor, store, PROMPT, train=True)
    batch = collator([rows[0], rows[1]])
    assert processor.tokenizer.unk_token_id not in batch["input_ids"]
    with torch.no_grad():
        assert model(**batch).loss.isfinite()
