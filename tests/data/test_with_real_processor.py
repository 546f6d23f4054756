"""The whole way, with transformers' own image processor, feature extractor and tokenizers."""

import pytest
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, CLIPImageProcessorPil

from moka.data import MediaStore, PromptTemplate, QuestionCollator, Windowing, check_media, load_questions
from moka.data.decoding import load_audio, load_video
from moka.data.media import cut_windows
from moka.omni import MokaOmniProcessor
from tests.data.conftest import CHATML, INST, byte_level_tokenizer, llama_tokenizer
from tests.data.files import tone, write_clip, write_sound

WINDOWING = Windowing(num_frames=3, num_windows=2, window_seconds=0.5, window_offset=-0.1)
LINES = """\
{"question_id": "a", "question": "How many <b>instruments</b>?", "answer": "two", "video": "a.mp4", "audio": "a.mp4"}
{"question_id": "b", "question": "Wo spielt die Flöte? 左边？", "answer": "left", "audio": "b.wav", "image": "b.png"}
{"question_id": "c", "question": "Is it loud?", "answer": "no", "video": "gone.mp4"}
"""


@pytest.fixture(params=["byte-level", "llama"])
def processor(request) -> MokaOmniProcessor:
    tokenizer = byte_level_tokenizer(CHATML) if request.param == "byte-level" else llama_tokenizer(INST)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=48)
    return MokaOmniProcessor(image_processor, extractor, tokenizer, visual_tokens=4, audio_tokens=3)


@pytest.fixture
def media(tmp_path):
    write_clip(tmp_path / "media" / "a.mp4", 1.0, sound=tone(1.0))
    write_sound(tmp_path / "media" / "b.wav", tone(2.0, 22_050), 22_050)
    Image.new("RGB", (30, 20), (50, 100, 150)).save(tmp_path / "media" / "b.png")
    return tmp_path / "media"


def test_from_files_to_a_batch(processor, media, tmp_path):
    (tmp_path / "set.jsonl").write_text(LINES, encoding="utf-8")
    store = MediaStore(media, processor, WINDOWING, tmp_path / "cache")
    questions, failures = check_media(load_questions(tmp_path / "set.jsonl"), store)
    assert [(failure.question_id, failure.path) for failure in failures] == [("c", "gone.mp4")]
    records = list(questions)
    batch = QuestionCollator(processor, store, PromptTemplate(), train=True)(records)

    frames, windows = load_video(media / "a.mp4", 3), cut_windows(load_audio(media / "a.mp4"), WINDOWING)
    assert torch.equal(batch["pixel_values_videos"], processor.process_images(frames))
    assert torch.equal(batch["input_features"][:2], processor.process_audio(windows))
    assert batch["input_features"].shape == (4, 48, 16)
    assert batch["pixel_values"].shape == (1, 3, 16, 16)
    assert [(batch["mm_token_type_ids"] == kind).sum(1).tolist() for kind in (1, 2, 3)] == [[0, 4], [12, 0], [6, 6]]
    for row, record in enumerate(records):
        asked = processor.tokenizer.decode(batch["input_ids"][row][batch["question_mask"][row]])
        assert asked.strip() == f"Please answer this question: {record['question']}"
        target = batch["labels"][row][batch["labels"][row] != -100]
        assert target[-1] == processor.tokenizer.eos_token_id
        assert processor.tokenizer.decode(target[:-1]) == f"<answer> {record['answer']} </answer>"


def test_prompts_are_the_processors_own(processor, media):
    """The processor's `__call__` and the collator agree on what a prompt is."""
    store = MediaStore(media, processor, WINDOWING, None)
    record = {"question_id": "a", "question": "Who?", "image": None, "video": "a.mp4", "audio": "b.wav"}
    batch = QuestionCollator(processor, store, PromptTemplate(), train=False)([record])
    expected = processor(
        text=PromptTemplate().render(record, processor).text,
        videos=[load_video(media / "a.mp4", 3)],
        audio=[cut_windows(load_audio(media / "b.wav"), WINDOWING)],
        add_special_tokens=False,
        padding=False,
    )
    assert expected.keys() | {"question_mask"} == batch.keys()
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name


def test_a_model_without_a_tower_takes_what_it_can(processor, media):
    processor.audio_tokens = None
    record = {"question_id": "a", "question": "Who?", "image": "b.png", "video": "a.mp4", "audio": "b.wav"}
    make = QuestionCollator(processor, MediaStore(media, processor, WINDOWING, None), PromptTemplate(), train=False)
    assert make([{**record, "audio": None}])["pixel_values_videos"].shape == (3, 3, 16, 16)
    with pytest.raises(ValueError, match="no audio tower"):
        make([record])


def test_wording_with_a_placeholder_of_its_own_is_refused(processor, media):
    record = {"question_id": "a", "question": "Who?", "image": None, "video": "a.mp4", "audio": None}
    template = PromptTemplate(video="{video} <|video|>")
    make = QuestionCollator(processor, MediaStore(media, processor, WINDOWING, None), template, train=False)
    with pytest.raises(ValueError, match=r"has 2 <\|video\|> placeholders for 1 media"):
        make([record])


def test_a_change_of_the_processors_parts_is_seen_by_the_cache(processor, media, tmp_path):
    store = MediaStore(media, processor, WINDOWING, tmp_path / "cache")
    before = {column: store.load(column, "a.mp4") for column in ("video", "audio")}
    processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    processor.feature_extractor.mean = 0.0
    for column, tensor in before.items():
        assert not torch.equal(store.load(column, "a.mp4"), tensor)
    # The same settings in other objects find the same files.
    again = MokaOmniProcessor(
        CLIPImageProcessorPil.from_dict(processor.image_processor.to_dict()),
        ASTFeatureExtractor.from_dict(processor.feature_extractor.to_dict()),
        processor.tokenizer,
        visual_tokens=4,
        audio_tokens=3,
    )
    for column in before:
        MediaStore(media, again, WINDOWING, tmp_path / "cache").load(column, "a.mp4")
    assert len(list((tmp_path / "cache").iterdir())) == 4
