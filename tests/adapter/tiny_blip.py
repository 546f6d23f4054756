"""Tiny models of the BLIP family, whose Q-Former makes the tokens of an image."""

import torch

from tests.adapter.tiny import (
    IMAGE,
    IMAGE_LAYOUTS,
    LLAMA,
    TEXT,
    VIDEO,
    VISION,
    Tiny,
    both,
    build,
    config_of,
    noise,
    picture,
)

QFORMER = VISION | {"encoder_hidden_size": 16, "vocab_size": 100}


BLIP_VISION = VISION | {"image_size": 8, "patch_size": 4}


def blip_2():
    text = TEXT | {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32}
    config = config_of(
        "blip-2",
        vision_config=BLIP_VISION,
        qformer_config=QFORMER,
        text_config=text,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    return Tiny(
        build("Blip2ForConditionalGeneration", config),
        IMAGE_LAYOUTS,
        both(picture),
        text_alone=False,
        settings={"exclude_modules": ["fc1", "fc2"]},
    )


def blip_question(seed):
    """The question once more, for the Q-Former."""
    return {
        "qformer_input_ids": torch.tensor([[seed, 6, 7]]),
        "qformer_attention_mask": torch.ones(1, 3, dtype=torch.long),
    }


def instructblip():
    config = config_of(
        "instructblip",
        vision_config=BLIP_VISION,
        qformer_config=QFORMER,
        text_config=LLAMA,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    media = both(lambda seed: picture(seed) | blip_question(seed))
    return Tiny(build("InstructBlipForConditionalGeneration", config), IMAGE_LAYOUTS, media, text_alone=False)


def instructblipvideo():
    config = config_of(
        "instructblipvideo",
        vision_config=BLIP_VISION,
        qformer_config=QFORMER,
        text_config=LLAMA,
        num_query_tokens=4,
        video_token_index=VIDEO,
    )
    media = both(lambda seed: {"pixel_values": noise(1, 2, 3, 8, 8, seed=seed)} | blip_question(seed))
    model = build("InstructBlipVideoForConditionalGeneration", config)
    return Tiny(model, ("tttvvvvvvvvtttttt", "tvvvvvvvvtttt"), media, text_alone=False)
