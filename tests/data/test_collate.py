"""Batches."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from moka.data.collate import IGNORED, QuestionCollator
from moka.data.media import MediaError, Windowing
from moka.data.prompts import PromptTemplate
from moka.data.questions import FEATURES
from moka.data.store import MediaStore
from tests.data.conftest import CHATML, FakeProcessor, byte_level_tokenizer
from tests.data.files import tone, write_clip, write_sound

WINDOWING = Windowing(num_frames=2, num_windows=3, window_seconds=0.5, window_offset=0.0)
BLANK = {**dict.fromkeys(FEATURES), "type": "", "answer": "two"}
BOTH = {**BLANK, "question_id": "both", "question": "How many?", "video": "a.mp4", "audio": "a.mp4"}
SILENT = {**BLANK, "question_id": "silent", "question": "Where is the flute, left or right?", "video": "b.mp4"}
SOUND = {**BLANK, "question_id": "sound", "question": "多少种乐器？", "audio": "a.wav", "target": "Ich höre zwei: 两"}
TEXT = {**BLANK, "question_id": "text", "question": "Why?"}
PICTURE = {**BLANK, "question_id": "picture", "question": "What?", "image": "a.png", "audio": "a.wav"}
RECORDS = [BOTH, SILENT, SOUND, TEXT, PICTURE]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "a.mp4", 1.0, sound=tone(1.0))
    write_clip(folder / "b.mp4", 2.0, codec="mpeg4")
    write_sound(folder / "a.wav", tone(1.5) / 2)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "a.png")
    return folder


@pytest.fixture
def collator(any_processor, media):
    def make(train: bool = True, template: PromptTemplate | None = None, **options) -> QuestionCollator:
        store = MediaStore(media, any_processor, WINDOWING, None)
        return QuestionCollator(any_processor, store, template or PromptTemplate(), train=train, **options)

    return make


def real(batch: dict[str, torch.Tensor], row: int, key: str = "input_ids") -> torch.Tensor:
    return batch[key][row][batch["attention_mask"][row].bool()]


def test_shapes_types_and_padding(collator):
    batch = collator()(RECORDS)
    tokens = {"input_ids", "attention_mask", "mm_token_type_ids", "question_mask", "labels"}
    assert batch.keys() == tokens | {"pixel_values", "pixel_values_videos", "input_features"}
    shape = batch["input_ids"].shape
    for name in tokens:
        assert batch[name].shape == shape
        assert batch[name].dtype == (torch.bool if name == "question_mask" else torch.int64)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == shape[1]
    for row, length in enumerate(lengths):
        padding = slice(0, shape[1] - int(length))
        assert batch["attention_mask"][row, padding].sum() == 0
        assert batch["attention_mask"][row, padding.stop :].all()
        assert (batch["labels"][row, padding] == IGNORED).all()
        assert not batch["question_mask"][row, padding].any()
        assert not batch["mm_token_type_ids"][row, padding].any()


def test_texts_begin_as_the_tokenizer_wants_it_and_only_once(collator, any_processor):
    tokenizer = any_processor.tokenizer
    batch = collator()(RECORDS)
    for row in range(len(RECORDS)):
        ids = real(batch, row).tolist()
        if tokenizer.bos_token_id is None:
            assert ids[0] == tokenizer(PromptTemplate().render(RECORDS[row], any_processor).text)["input_ids"][0]
        else:
            assert ids.index(tokenizer.bos_token_id) == 0
            assert ids.count(tokenizer.bos_token_id) == 1


def test_every_medium_has_its_tokens(collator, any_processor):
    batch = collator()(RECORDS)
    types = batch["mm_token_type_ids"]
    # Per record: tokens of images (3 each), frames (2 x 3) and windows (3 x 2).
    assert [(types == kind).sum(1).tolist() for kind in (1, 2, 3)] == [
        [0, 0, 0, 0, 3],
        [6, 6, 0, 0, 0],
        [6, 0, 6, 0, 6],
    ]
    for name, kind in (("image", 1), ("video", 2), ("audio", 3)):
        token = getattr(any_processor, f"{name}_token_id")
        assert torch.equal(types == kind, batch["input_ids"] == token)


def test_media_are_joined_in_the_order_of_the_records(collator, any_processor, media):
    batch = collator()(RECORDS)
    store = MediaStore(media, any_processor, WINDOWING, None)
    video = [store.load("video", path) for path in ("a.mp4", "b.mp4")]
    audio = [store.load("audio", path) for path in ("a.mp4", "a.wav", "a.wav")]
    assert torch.equal(batch["pixel_values_videos"], torch.cat(video))
    assert torch.equal(batch["input_features"], torch.cat(audio))
    assert batch["pixel_values"].shape == (1, 3, 4, 4)
    assert not torch.equal(video[0], video[1])
    assert not torch.equal(audio[0], audio[1])


def test_labels_are_the_target_and_its_end(collator, any_processor):
    tokenizer = any_processor.tokenizer
    batch, prompts = collator()(RECORDS), collator(train=False)(RECORDS)
    template = PromptTemplate()
    assert "labels" not in prompts
    for row, record in enumerate(RECORDS):
        target = tokenizer(template.target_text(record), add_special_tokens=False)["input_ids"]
        labels = real(batch, row, "labels")
        prompt = real(prompts, row)
        assert labels.tolist() == [IGNORED] * len(prompt) + target + [tokenizer.eos_token_id]
        assert real(batch, row).tolist() == prompt.tolist() + target + [tokenizer.eos_token_id]
        assert not real(batch, row, "question_mask")[len(prompt) :].any()
    assert tokenizer.decode(target[-6:]).strip().endswith("</answer>")


def test_the_mask_marks_the_questions_tokens(collator, any_processor):
    batch = collator()(RECORDS)
    for row, record in enumerate(RECORDS):
        mask, ids = real(batch, row, "question_mask"), real(batch, row)
        text = any_processor.tokenizer.decode(ids[mask])
        assert text.strip() == f"Please answer this question: {record['question']}"
        # One piece, after the media.
        first, last = mask.nonzero()[0], mask.nonzero()[-1]
        assert mask[first : last + 1].all()
        assert (real(batch, row, "mm_token_type_ids")[first:] == 0).all()


questions = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Cn", "Co"]), min_size=1, max_size=12).filter(
    str.strip
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=questions)
def test_the_mask_finds_questions_in_any_script(collator, any_processor, question):
    """Repeated text, several bytes a character, marks that combine: what is marked says what was asked."""
    make = collator(train=False, template=PromptTemplate(question="Q {question} Q"))
    batch = make([{**TEXT, "question": question}])
    ids, mask = batch["input_ids"][0], batch["question_mask"][0]
    marked = any_processor.tokenizer.decode(ids[mask], clean_up_tokenization_spaces=False)
    assert marked.strip() == f"Q {question} Q"
    again = make([{**TEXT, "question": "another one"}])
    others = [row["input_ids"][0][~row["question_mask"][0]].tolist() for row in (batch, again)]
    assert others[0] == others[1]


def test_a_batch_is_its_records_padded(collator):
    make = collator()
    batch = make(RECORDS)
    for row, record in enumerate(RECORDS):
        alone = make([record])
        for name in ("input_ids", "labels", "question_mask", "mm_token_type_ids"):
            assert torch.equal(real(batch, row, name), alone[name][0])


def test_withheld_modalities_leave_no_trace(collator):
    make = collator(modalities=["text", "audio"])
    batch = make(RECORDS)
    assert "pixel_values" not in batch
    assert "pixel_values_videos" not in batch
    assert (batch["mm_token_type_ids"] != 0).sum() == (batch["mm_token_type_ids"] == 3).sum() == 18
    without = collator()([{**BOTH, "video": None}])
    assert torch.equal(make([BOTH])["input_ids"], without["input_ids"])
    # What is withheld is not even read.
    make([{**BOTH, "video": "absent.mp4"}])
    with pytest.raises(MediaError, match="absent"):
        collator()([{**BOTH, "video": "absent.mp4"}])
    assert collator(modalities=["text"])(RECORDS).keys().isdisjoint({"input_features", "pixel_values_videos"})


def test_nothing_is_truncated(collator):
    length = collator()([SILENT])["input_ids"].shape[1]
    assert collator(max_length=length)([SILENT])["input_ids"].shape[1] == length
    with pytest.raises(ValueError, match=f"question_id 'silent' has {length} tokens, max_length is {length - 1}"):
        collator(max_length=length - 1)([TEXT, SILENT])


def test_records_that_cannot_be_used_are_named(collator):
    with pytest.raises(ValueError, match="question_id 'text' has neither"):
        collator()([BOTH, {**TEXT, "answer": None}])
    assert len(collator(train=False)([{**TEXT, "answer": None}])["input_ids"]) == 1
    for key in ("question", "target", "answer"):
        with pytest.raises(ValueError, match=r"question_id 'text': the .* holds \['<\|audio\|>'\]"):
            collator()([{**TEXT, key: "a <|audio|> b"}])


def test_wording_that_names_a_placeholder_is_refused(collator):
    make = collator(template=PromptTemplate(audio="{audio} <|video|>"))
    with pytest.raises(ValueError, match=r"question_id 'both': the prompt has 12 video tokens, its media need 6"):
        make([BOTH])


def test_tokenizers_that_cannot_serve_are_refused(media):
    def make(tokenizer, train=True):
        processor = FakeProcessor(tokenizer)
        store = MediaStore(media, processor, WINDOWING, None)
        return QuestionCollator(processor, store, PromptTemplate(), train=train)

    tokenizer = byte_level_tokenizer(CHATML)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        make(tokenizer)
    make(tokenizer, train=False)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="neither pad_token nor eos_token"):
        make(tokenizer, train=False)


def test_it_works_in_data_loader_workers(processor, media):
    store = MediaStore(media, processor, WINDOWING, None)
    make = QuestionCollator(processor, store, PromptTemplate(), train=True)
    loader = torch.utils.data.DataLoader([BOTH, SILENT] * 2, batch_size=2, num_workers=1, collate_fn=make)
    expected = make([BOTH, SILENT])
    for batch in loader:
        for name, tensor in expected.items():
            np.testing.assert_array_equal(batch[name].numpy(), tensor.numpy())
