"""The processor: media to tensors, placeholders to counts, batches, saving."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, AutoProcessor, CLIPImageProcessorPil

from moka.omni import MokaOmniProcessor
from tests.omni.conftest import MEL_FRAMES, MELS, SIDE, Build, frames, make_tokenizer, mixed_batch, sound


@pytest.fixture(scope="module")
def processor(build: Build) -> MokaOmniProcessor:
    return build()[1]


def test_frames_are_resized_cropped_and_normalised(processor: MokaOmniProcessor) -> None:
    black = np.zeros((2, 40, 30, 3), np.uint8)
    values = processor.process_images(black)
    assert values.shape == (2, 3, SIDE, SIDE)
    assert values.dtype == torch.float32
    own = processor.image_processor
    expected = -torch.tensor(own.image_mean) / torch.tensor(own.image_std)
    torch.testing.assert_close(values[1, :, 3, 5], expected)


def test_three_pixels_high_frames_are_not_taken_for_channels(processor: MokaOmniProcessor) -> None:
    stripe = np.zeros((1, 3, 3, 3), np.uint8)
    stripe[..., 0] = 255
    values = processor.process_images(stripe)
    assert (values[0, 0] > 1).all()
    assert (values[0, 1:] < 0).all()


def test_pil_images_equal_arrays(processor: MokaOmniProcessor) -> None:
    arrays = frames(4, 2)
    assert torch.equal(
        processor.process_images([Image.fromarray(a) for a in arrays]), processor.process_images(arrays)
    )


def test_sound_becomes_padded_filter_banks(processor: MokaOmniProcessor) -> None:
    windows = sound(1, 3)
    values = processor.process_audio(windows)
    assert values.shape == (3, MEL_FRAMES, MELS)
    assert values.dtype == torch.float32
    assert torch.equal(values[1], processor.process_audio(windows[1:2])[0])
    used = 1 + (windows.shape[1] - 400) // 160
    assert torch.equal(values[0, used:], values[0, used : used + 1].expand(MEL_FRAMES - used, -1))
    assert not torch.equal(values[0, used - 1], values[0, used])


def test_a_window_may_be_as_long_as_the_tower_takes_and_no_longer(processor: MokaOmniProcessor) -> None:
    longest = 400 + 160 * MEL_FRAMES - 1
    assert processor.process_audio(np.zeros((1, longest), np.float32)).shape == (1, MEL_FRAMES, MELS)
    with pytest.raises(ValueError, match=rf"window 0 has {longest + 1} samples"):
        processor.process_audio(np.zeros((1, longest + 1), np.float32))
    with pytest.raises(ValueError, match="window 0 has 399 samples"):
        processor.process_audio(np.zeros((1, 399), np.float32))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        (np.zeros((1, 8, 8, 3), np.float32), "frame 0 is float32"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
    ],
)
def test_wrong_frames_are_refused(processor: MokaOmniProcessor, bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor.process_images(bad)


def test_wrong_sound_is_refused(processor: MokaOmniProcessor) -> None:
    with pytest.raises(ValueError, match="no audio windows"):
        processor.process_audio(np.zeros((0, 4000), np.float32))
    with pytest.raises(ValueError, match="expected one channel"):
        processor.process_audio(np.zeros((1, 2, 4000), np.float32))


def test_expand_repeats_by_media_tokens(processor: MokaOmniProcessor) -> None:
    image, video, audio = processor.image_token, processor.video_token, processor.audio_token
    text = f"a {image} b {video} c {audio} d"
    expanded = processor.expand(text, num_images=1, num_frames=2, num_windows=4)
    assert expanded == f"a {image * 3} b {video * 6} c {audio * 12} d"
    assert processor.expand(f"{video}x{video}", num_frames=[1, 2]) == f"{video * 3}x{video * 6}"
    assert processor.expand("none") == "none"


@pytest.mark.parametrize("counts", [{}, {"num_frames": 2, "num_windows": 1}, {"num_frames": [1, 1]}])
def test_expand_refuses_other_numbers_of_media(processor: MokaOmniProcessor, counts: dict) -> None:
    with pytest.raises(ValueError, match="placeholders for"):
        processor.expand(f"see {processor.video_token}", **counts)


def test_a_batch_is_padded_on_the_left_and_tells_the_modalities(processor: MokaOmniProcessor) -> None:
    batch = mixed_batch(processor)
    types, mask = batch["mm_token_type_ids"], batch["attention_mask"]
    assert types[0].tolist() == [0] + [2] * 6 + [0] + [3] * 9 + [0] * 4
    assert types[1].sum() == 3
    assert not types[2].any()
    assert mask[:, -1].all()
    assert not mask[1:, 0].any()
    assert torch.equal(batch["input_ids"] == processor.audio_token_id, types == 3)
    assert (batch["input_ids"][mask == 0] == processor.tokenizer.pad_token_id).all()
    assert batch["pixel_values_videos"].shape == (2, 3, SIDE, SIDE)
    assert batch["input_features"].shape == (3, MEL_FRAMES, MELS)


def test_media_are_handed_out_in_order(processor: MokaOmniProcessor) -> None:
    texts = ["<|video|> and <|video|>", "is", "<|video|>"]
    clips = [frames(seed, count) for seed, count in ((1, 1), (2, 3), (3, 2))]
    batch = processor(text=texts, videos=clips)
    assert (batch["input_ids"] == processor.video_token_id).sum(1).tolist() == [12, 0, 6]
    assert torch.equal(batch["pixel_values_videos"][1:4], processor.process_images(clips[1]))


def test_without_tensors_rows_keep_their_lengths(processor: MokaOmniProcessor) -> None:
    batch = processor(text=["what is", "no"], padding=False, return_tensors=None)
    assert [len(row) for row in batch["input_ids"]] == [2, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"text": "<|audio|>", "videos": [frames(1)]}, r"0 <\|video\|> placeholders .* 1 media"),
        ({"text": ["<|image|>", "x"], "images": [frames(1)[0], frames(2)[0]]}, r"1 <\|image\|> .*\[1, 0\].* 2 media"),
        ({"images": [frames(1)[0]]}, "needs a text"),
    ],
)
def test_text_and_media_must_match(processor: MokaOmniProcessor, call: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_a_processor_comes_back(processor: MokaOmniProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = MokaOmniProcessor.from_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is MokaOmniProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert isinstance(loaded.image_processor, CLIPImageProcessorPil)
    before, after = mixed_batch(processor), mixed_batch(loaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_chat_template_of_the_tokenizer_is_kept(processor: MokaOmniProcessor, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_tokens(["<|image|>", "<|video|>", "<|audio|>"], special_tokens=True)
    tokenizer.chat_template = "{% for m in messages %}see {{ m['content'] }} {% endfor %}"
    made = MokaOmniProcessor(tokenizer=tokenizer, visual_tokens=2)
    made.save_pretrained(tmp_path)
    for one in (made, MokaOmniProcessor.from_pretrained(tmp_path)):
        message = [{"role": "user", "content": "what"}]
        assert (
            one.apply_chat_template(message)
            == one.tokenizer.apply_chat_template(message, tokenize=False)
            == "see what "
        )


def test_a_model_that_cannot_hear_takes_no_sound(build: Build, tmp_path: Path) -> None:
    _, made = build(audio_tower=None)
    made.save_pretrained(tmp_path)
    for processor in (made, MokaOmniProcessor.from_pretrained(tmp_path)):
        assert processor.visual_tokens == 3
        with pytest.raises(ValueError, match="no audio tower"):
            processor.process_audio(sound(1))
        with pytest.raises(ValueError, match="no audio tower"):
            processor(text="<|audio|>", audio=[sound(1)])
        with pytest.raises(ValueError, match=r"no tower for <\|audio\|>"):
            processor.expand("<|audio|>", num_windows=1)


def test_a_tokenizer_without_placeholders_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no <\|image\|>, <\|video\|>, <\|audio\|>"):
        MokaOmniProcessor(CLIPImageProcessorPil(), ASTFeatureExtractor(), make_tokenizer())
    with pytest.raises(ValueError, match="needs a tokenizer"):
        MokaOmniProcessor()
