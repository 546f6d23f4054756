"""Tiny models that see images."""

import torch
from torch import nn

from tests.adapter.tiny import (
    CLIP,
    HEAD,
    IMAGE,
    IMAGE_LAYOUTS,
    LLAMA,
    SIGLIP,
    TEXT,
    VISION,
    WINDOWS,
    Tiny,
    big_picture,
    both,
    build,
    config_of,
    noise,
    picture,
    tiles,
)


def framed_picture(seed):
    """One image of 16x16 pixels, with a dimension for the images of a prompt."""
    return {"pixel_values": noise(1, 1, 3, 16, 16, seed=seed)}


def tiled_picture(seed):
    return {name: value for name, value in tiles(seed).items() if name != "pixel_values_videos"}


PIXTRAL = VISION | HEAD | {"model_type": "pixtral", "image_size": 16, "patch_size": 4}


def sized_picture(seed):
    return big_picture(seed) | {"image_sizes": torch.tensor([[16, 16]])}


TILE_LAYOUTS = ("tt" + 10 * "i" + "ttttt", "t" + 10 * "i" + "ttt")


def llava():
    config = config_of("llava", vision_config=CLIP, text_config=LLAMA, image_token_index=IMAGE)
    return Tiny(build("LlavaForConditionalGeneration", config), IMAGE_LAYOUTS, both(picture))


def vipllava():
    config = config_of(
        "vipllava",
        vision_config=CLIP,
        text_config=LLAMA,
        image_token_index=IMAGE,
        vision_feature_layers=[-1, -2],
    )
    return Tiny(build("VipLlavaForConditionalGeneration", config), IMAGE_LAYOUTS, both(picture))


def llava_next():
    config = config_of(
        "llava_next",
        vision_config=CLIP,
        text_config=LLAMA,
        image_grid_pinpoints=[[8, 8]],
        image_token_index=IMAGE,
    )
    return Tiny(build("LlavaNextForConditionalGeneration", config), TILE_LAYOUTS, both(tiled_picture))


def internvl():
    vision = VISION | {"model_type": "internvl_vision", "image_size": [16, 16], "patch_size": [4, 4]}
    config = config_of(
        "internvl",
        vision_config=vision,
        text_config=LLAMA | {"model_type": "qwen2"},
        image_token_id=IMAGE,
        image_seq_length=4,
    )
    return Tiny(build("InternVLForConditionalGeneration", config), IMAGE_LAYOUTS, both(big_picture))


def paligemma():
    config = config_of(
        "paligemma",
        text_config=TEXT | {"model_type": "gemma", "head_dim": 8},
        vision_config=SIGLIP | {"projection_dim": 32},
        projection_dim=32,
        hidden_size=32,
        image_token_index=IMAGE,
    )
    return Tiny(build("PaliGemmaForConditionalGeneration", config), IMAGE_LAYOUTS, both(picture), token_types="y")


def gemma3():
    config = config_of(
        "gemma3", text_config=TEXT | WINDOWS, vision_config=SIGLIP, mm_tokens_per_image=4, image_token_index=IMAGE
    )
    model = build("Gemma3ForConditionalGeneration", config)
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return Tiny(model, IMAGE_LAYOUTS, both(picture), token_types="i")


def idefics2():
    vision = VISION | {"image_size": 16, "patch_size": 4}
    perceiver = {
        "hidden_size": 32,
        "resampler_n_latents": 4,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    config = config_of(
        "idefics2",
        vision_config=vision,
        perceiver_config=perceiver,
        text_config=TEXT | {"model_type": "mistral", "head_dim": 8},
        image_token_id=IMAGE,
    )
    return Tiny(build("Idefics2ForConditionalGeneration", config), IMAGE_LAYOUTS, both(framed_picture))


def idefics3(name="idefics3", model_class="Idefics3ForConditionalGeneration"):
    vision = VISION | {"image_size": 16, "patch_size": 4}
    config = config_of(name, vision_config=vision, text_config=LLAMA, scale_factor=2, image_token_id=IMAGE)
    return Tiny(build(model_class, config), IMAGE_LAYOUTS, both(framed_picture))


def smolvlm():
    return idefics3("smolvlm", "SmolVLMForConditionalGeneration")


def mistral3():
    config = config_of(
        "mistral3",
        vision_config=PIXTRAL,
        text_config=TEXT | {"model_type": "mistral", "head_dim": 8},
        image_token_index=IMAGE,
    )

    return Tiny(build("Mistral3ForConditionalGeneration", config), IMAGE_LAYOUTS, both(sized_picture))


def lighton_ocr():
    config = config_of(
        "lighton_ocr",
        vision_config=PIXTRAL,
        text_config=TEXT | {"model_type": "qwen3", "head_dim": 8},
        image_token_id=IMAGE,
    )
    return Tiny(build("LightOnOcrForConditionalGeneration", config), IMAGE_LAYOUTS, both(sized_picture))


def deepseek_vl():
    config = config_of("deepseek_vl", vision_config=SIGLIP, text_config=LLAMA, image_token_id=IMAGE)
    return Tiny(build("DeepseekVLForConditionalGeneration", config), IMAGE_LAYOUTS, both(picture))


def aya_vision():
    config = config_of(
        "aya_vision",
        vision_config=SIGLIP | {"image_size": 16},
        text_config=TEXT | WINDOWS | {"model_type": "cohere2"},
        image_token_index=IMAGE,
    )
    return Tiny(build("AyaVisionForConditionalGeneration", config), IMAGE_LAYOUTS, both(big_picture))


def cohere2_vision():
    config = config_of(
        "cohere2_vision",
        vision_config=SIGLIP | {"image_size": 16},
        text_config=TEXT | WINDOWS | {"model_type": "cohere2"},
        image_token_id=IMAGE,
        alignment_intermediate_size=32,
    )
    return Tiny(build("Cohere2VisionForConditionalGeneration", config), IMAGE_LAYOUTS, both(big_picture))


def llama4():
    vision = VISION | {
        "image_size": 16,
        "patch_size": 4,
        "intermediate_size": 64,
        "vision_output_dim": 16,
        "projector_input_dim": 16,
        "projector_output_dim": 16,
    }
    text = TEXT | {
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 32,
        "no_rope_layers": [1, 0],
    }
    config = config_of("llama4", vision_config=vision, text_config=text, image_token_index=IMAGE)
    return Tiny(build("Llama4ForConditionalGeneration", config), IMAGE_LAYOUTS, both(big_picture), beams=False)


def lfm2_vl():
    vision = VISION | {
        "model_type": "siglip2_vision_model",
        "patch_size": 4,
        "num_patches": 16,
        "vision_use_head": False,
    }
    text = TEXT | {
        "model_type": "lfm2",
        "layer_types": ["conv", "full_attention"],
        "conv_L_cache": 3,
        "block_ff_dim": 48,
        "block_auto_adjust_ff_dim": False,
    }
    config = config_of(
        "lfm2_vl", vision_config=vision, text_config=text, image_token_id=IMAGE, projector_hidden_size=32
    )

    def media(seed):
        return {
            "pixel_values": noise(1, 16, 48, seed=seed),
            "spatial_shapes": torch.tensor([[4, 4]]),
            "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
        }

    return Tiny(build("Lfm2VlForConditionalGeneration", config), IMAGE_LAYOUTS, both(media))


def aria():
    vision = VISION | {"model_type": "idefics3_vision", "image_size": 16, "patch_size": 4}
    text = TEXT | {"head_dim": 8, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
    config = config_of(
        "aria", vision_config=vision, text_config=text, image_token_index=IMAGE, projector_patch_to_query_dict={16: 4}
    )
    return Tiny(build("AriaForConditionalGeneration", config), IMAGE_LAYOUTS, both(big_picture))


def fuyu():
    text = TEXT | {"model_type": "persimmon"}
    config = config_of(
        "fuyu",
        text_config=text,
        patch_size=4,
        image_token_id=IMAGE,
        **{k: TEXT[k] for k in ("vocab_size", "hidden_size")},
    )

    def media(seed):
        return {"image_patches": noise(1, 4, 48, seed=seed)}

    return Tiny(build("FuyuForCausalLM", config), IMAGE_LAYOUTS, both(media))


def got_ocr2():
    vision = {
        "hidden_size": 16,
        "output_channels": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
        "window_size": 2,
        "global_attn_indexes": [0],
        "mlp_dim": 24,
    }
    config = config_of(
        "got_ocr2", vision_config=vision, text_config=TEXT | {"model_type": "qwen2"}, image_token_index=IMAGE
    )
    return Tiny(build("GotOcr2ForConditionalGeneration", config), IMAGE_LAYOUTS, both(lambda s: picture(s, 32)))


def ovis2():
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
        "vocab_size": 16,
        "num_visual_indicator_tokens": 2,
    }
    config = config_of(
        "ovis2",
        vision_config=vision,
        text_config=TEXT | {"model_type": "qwen2"},
        image_token_id=IMAGE,
        hidden_size=32,
        vocab_size=100,
        visual_indicator_token_ids=[93, 94],
    )
    return Tiny(build("Ovis2ForConditionalGeneration", config), IMAGE_LAYOUTS, both(picture))


def chameleon():
    vq = {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 8,
        "resolution": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 2],
        "num_res_blocks": 1,
    }
    config = config_of(
        "chameleon",
        **TEXT,
        vq_config=vq,
        vocabulary_map={"<image>": IMAGE}
        | {f"IMGIMG{''.join(chr(65 + int(d)) for d in str(i))}Z": 20 + i for i in range(16)},
    )
    return Tiny(
        build("ChameleonForConditionalGeneration", config),
        ("tt" + 16 * "i" + "tttt", "t" + 16 * "i" + "tt"),
        both(picture),
    )
