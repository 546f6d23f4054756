"""Tiny models that see and hear."""

from unittest.mock import patch

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.adapter.tiny import (
    AUDIO,
    DEEPSTACK,
    HEAD,
    IMAGE,
    IMAGE_LAYOUTS,
    MOE,
    MROPE,
    PAD,
    TEXT,
    VISION,
    VISION_MARKS,
    VISUAL,
    VISUAL_INDEX,
    WHISPER,
    WINDOWS,
    Tiny,
    both,
    build,
    config_of,
    grids,
    masked_mel,
    noise,
    picture,
    qwen25_vision,
)

OMNI_LAYOUTS = (
    "tt<iiii>t<vvvvvvvv>t{aaaaaaaa}tttttt",
    "t<iiii>t<vvvvvvvv>t{aaaaaaaa}ttt",
)


OMNI3_LAYOUTS = ("tt<iiii>t<vvvvvvvv>t{aaaa}tttttt", "t<iiii>t<vvvvvvvv>t{aaaa}ttt")


def omni_media():
    seconds = {"video_second_per_grid": torch.tensor([1.0])}
    return tuple(grid | masked_mel(seed) | seconds for seed, grid in enumerate(grids()))


def thinker_config():
    return {
        "text_config": TEXT | MROPE,
        "vision_config": qwen25_vision(),
        "audio_config": WHISPER | {"output_dim": 32, "max_source_positions": 64, "n_window": 16},
        "audio_start_token_id": 95,
        "audio_end_token_id": 96,
        **VISION_MARKS,
        "audio_token_index": AUDIO,
        **VISUAL_INDEX,
    }


def qwen3_omni_thinker_config():
    audio = WHISPER | {"output_dim": 32, "max_source_positions": 64, "n_window": 50, "downsample_hidden_size": 8}
    text = TEXT | MROPE | MOE | HEAD
    return {
        "text_config": text,
        "vision_config": DEEPSTACK,
        "audio_config": audio,
        "audio_token_id": AUDIO,
        "audio_start_token_id": 95,
        **VISION_MARKS,
        **VISUAL,
    }


class ConvTower(nn.Module):
    """Stands in for Gemma 3n's MobileNet, which needs the timm package: one convolution."""

    def __init__(self, features):
        super().__init__()
        self.conv = nn.Conv2d(3, features, kernel_size=4, stride=4)

    def forward(self, pixel_values, **kwargs):
        return BaseModelOutputWithPooling(last_hidden_state=self.conv(pixel_values))


def gemma4_text(**more):
    ids = {"vocab_size_per_layer_input": 100, "hidden_size_per_layer_input": 8}
    return TEXT | WINDOWS | ids | {"global_head_dim": 8} | more


GEMMA4_VISION = VISION | {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pooling_kernel_size": 2,
    "patch_size": 4,
    "position_embedding_size": 16,
}


def gemma4_picture(seed):
    places = torch.tensor([[x, y] for y in range(4) for x in range(4)])[None]
    return {"pixel_values": noise(1, 16, 48, seed=seed), "image_position_ids": places}


def qwen2_5_omni_thinker():
    config = transformers.Qwen2_5OmniThinkerConfig(**thinker_config())
    model = build("Qwen2_5OmniThinkerForConditionalGeneration", config)
    return Tiny(model, OMNI_LAYOUTS, omni_media())


def qwen2_5_omni():
    """The whole model: thinker, talker and vocoder."""
    talker = TEXT | MROPE | {"head_dim": 8, "embedding_size": 32, "tts_codec_pad_token_id": 1}
    talker |= {"tts_text_start_token_id": 3, "tts_text_end_token_id": 4, "tts_text_pad_token_id": 5}
    dit = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "emb_dim": 8,
        "num_embeds": 16,
        "mel_dim": 8,
        "enc_emb_dim": 8,
        "enc_dim": 8,
        "look_ahead_layers": [0],
        "look_backward_layers": [0],
        "enc_channels": [8, 8, 8, 8, 24],
        "enc_attention_channels": 8,
        "enc_se_channels": 8,
        "enc_res2net_scale": 2,
    }
    vocoder = {"mel_dim": 8, "upsample_initial_channel": 64}
    config = transformers.Qwen2_5OmniConfig(
        thinker_config=thinker_config(),
        talker_config=talker,
        token2wav_config={"dit_config": dit, "bigvgan_config": vocoder},
    )
    model = build("Qwen2_5OmniForConditionalGeneration", config)
    model.speaker_map = {"Chelsie": {}}
    return Tiny(model, OMNI_LAYOUTS, omni_media(), part="thinker", generation={"generation_mode": "text"})


def qwen3_omni_moe_thinker():
    config = transformers.Qwen3OmniMoeThinkerConfig(**qwen3_omni_thinker_config())
    model = build("Qwen3OmniMoeThinkerForConditionalGeneration", config)
    return Tiny(model, OMNI3_LAYOUTS, omni_media())


def qwen3_omni_moe():
    text = TEXT | MROPE | MOE | {"head_dim": 8, "num_hidden_layers": 1}
    talker = {
        "text_config": text | {"shared_expert_intermediate_size": 16},
        "code_predictor_config": TEXT | {"head_dim": 8, "num_hidden_layers": 1, "num_code_groups": 2},
        "num_code_groups": 2,
        "thinker_hidden_size": 32,
        "accept_hidden_layer": 1,
        "spatial_merge_size": 2,
        "speaker_id": {"ethan": 3},
        "codec_nothink_id": 3,
        "codec_think_bos_id": 4,
        "codec_think_eos_id": 5,
        "codec_pad_id": 6,
        "codec_bos_id": 7,
        "codec_eos_token_id": 8,
    }
    code2wav = {
        "codebook_size": 16,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_quantizers": 2,
        "upsample_rates": [2],
        "upsampling_ratios": [2],
        "decoder_dim": 16,
    }
    config = transformers.Qwen3OmniMoeConfig(
        thinker_config=qwen3_omni_thinker_config(), talker_config=talker, code2wav_config=code2wav
    )
    return Tiny(
        build("Qwen3OmniMoeForConditionalGeneration", config),
        OMNI3_LAYOUTS,
        omni_media(),
        part="thinker",
        generation={"return_audio": False},
    )


def phi4_multimodal():
    config = config_of(
        "phi4_multimodal",
        **TEXT,
        vision_config=VISION | {"image_size": 16, "crop_size": 16, "patch_size": 4, "image_token_id": IMAGE},
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_blocks": 2,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 16,
            "input_size": 16,
            "audio_token_id": AUDIO,
        },
    )

    def media(seed):
        return {
            "image_pixel_values": noise(1, 2, 3, 16, 16, seed=seed),
            "image_sizes": torch.tensor([[16, 16]]),
            "image_attention_mask": torch.ones(1, 2, 4, 4, dtype=torch.long),
            "audio_input_features": noise(1, 32, 16, seed=seed),
            "audio_embed_sizes": torch.tensor([4]),
            "audio_attention_mask": torch.ones(1, 32, dtype=torch.bool),
        }

    # 2x2 features with a newline a row, of the tile and of the whole, and a separator.
    layouts = ("tt" + 13 * "i" + "taaaattttt", "t" + 13 * "i" + "taaaattt")
    return Tiny(build("Phi4MultimodalForCausalLM", config), layouts, both(media))


def gemma3n():
    text = TEXT | {
        "head_dim": 8,
        "vocab_size_per_layer_input": 80,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
        "sliding_window": 16,
    }
    audio = {
        "hidden_size": 16,
        "input_feat_size": 16,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": [4, 4],
        "vocab_offset": AUDIO,
        "vocab_size": 8,
    }
    config = config_of(
        "gemma3n",
        text_config=text,
        audio_config=audio,
        vision_config={"hidden_size": 16, "vocab_offset": 88, "vocab_size": 4},
        vision_soft_tokens_per_image=4,
        audio_soft_tokens_per_image=6,
        image_token_id=IMAGE,
        audio_token_id=AUDIO,
    )
    from_config = transformers.AutoModel.from_config

    def without_timm(part, **kwargs):
        return ConvTower(16) if part.model_type == "gemma3n_vision" else from_config(part, **kwargs)

    def media(seed):
        return picture(seed) | {
            "input_features": noise(1, 64, 16, seed=seed),
            "input_features_mask": torch.ones(1, 64, dtype=torch.bool),
        }

    with patch.object(transformers.models.gemma3n.modeling_gemma3n.AutoModel, "from_config", without_timm):
        model = build("Gemma3nForConditionalGeneration", config)
    # At a padding embedding of zero, the model's own gradient is NaN (a square root of its magnitude).
    nn.init.normal_(model.get_input_embeddings().weight[PAD])
    return Tiny(model, ("ttiiiitaaaaaattttt", "tiiiitaaaaaattt"), both(media))


def gemma4():
    audio = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 16}
    config = config_of(
        "gemma4",
        text_config=gemma4_text(),
        vision_config=GEMMA4_VISION,
        audio_config=audio | {"subsampling_conv_channels": [16, 4]},
        audio_token_id=AUDIO,
        **VISUAL,
    )

    def media(seed):
        image = gemma4_picture(seed)
        return image | {
            "pixel_values_videos": noise(2, 16, 48, seed=seed + 9),
            "video_position_ids": image["image_position_ids"].repeat(2, 1, 1),
            "num_frames_per_video": torch.tensor([2]),
            "input_features": noise(1, 32, 16, seed=seed),
            "input_features_mask": torch.ones(1, 32, dtype=torch.bool),
        }

    return Tiny(build("Gemma4ForConditionalGeneration", config), OMNI_LAYOUTS, both(media), wants_ids=True)


def gemma4_moe():
    """Gemma 4 with experts beside each MLP."""
    text = gemma4_text(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=16)
    config = config_of("gemma4", text_config=text, vision_config=GEMMA4_VISION, **VISUAL)
    model = build("Gemma4ForConditionalGeneration", config)
    return Tiny(model, IMAGE_LAYOUTS, both(gemma4_picture), wants_ids=True)
