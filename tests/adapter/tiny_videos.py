"""Tiny models that see images and videos."""

import torch

from tests.adapter.tiny import (
    CLIP,
    DEEPSTACK,
    HEAD,
    IMAGE,
    LLAMA,
    MOE,
    MROPE,
    QWEN_VISION,
    SIGLIP,
    TEXT,
    VISION,
    VISION_MARKS,
    VISUAL,
    VISUAL_INDEX,
    Tiny,
    both,
    build,
    config_of,
    grids,
    noise,
    patches,
    qwen25_vision,
    tiles,
)

QWEN_LAYOUTS = ("tt<iiii>tt<vvvvvvvv>tttttt", "t<iiii>t<vvvvvvvv>tttt")


FRAME_LAYOUTS = ("tt<iiii>tt<vvvv>t<vvvv>tttttt", "t<iiii>t<vvvv>t<vvvv>tttt")


GRID_LAYOUTS = ("tt<iiii>tttttt", "t<iiii>tttt")


FULL_ROPE = {"rope_parameters": MROPE["rope_parameters"] | {"partial_rotary_factor": 1.0}}


LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": FULL_ROPE["rope_parameters"] | {"mrope_interleaved": True},
}


DENSE_VISION = {name: value for name, value in DEEPSTACK.items() if name != "deepstack_visual_indexes"}


GLM_MARKS = {
    "image_start_token_id": 93,
    "image_end_token_id": 94,
    "video_start_token_id": 95,
    "video_end_token_id": 96,
}


GLM_VISION = QWEN_VISION | {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "image_size": 16}


def image_grids(features=96):
    return both(lambda seed: patches((1, 4, 4), features, "image", seed))


def qwen2_vl():
    vision = QWEN_VISION | {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    config = config_of("qwen2_vl", text_config=TEXT | MROPE, vision_config=vision, **VISUAL, **VISION_MARKS)
    return Tiny(build("Qwen2VLForConditionalGeneration", config), QWEN_LAYOUTS, grids(), wants_ids=True)


def qwen2_5_vl():
    config = config_of("qwen2_5_vl", text_config=TEXT | MROPE, vision_config=qwen25_vision(), **VISUAL, **VISION_MARKS)
    return Tiny(build("Qwen2_5_VLForConditionalGeneration", config), QWEN_LAYOUTS, grids(), wants_ids=True)


def qwen3_vl():
    config = config_of("qwen3_vl", text_config=TEXT | MROPE | HEAD, vision_config=DEEPSTACK, **VISUAL, **VISION_MARKS)
    return Tiny(build("Qwen3VLForConditionalGeneration", config), FRAME_LAYOUTS, grids(), wants_ids=True)


def qwen3_vl_moe():
    config = config_of(
        "qwen3_vl_moe", text_config=TEXT | MROPE | MOE | HEAD, vision_config=DEEPSTACK, **VISUAL, **VISION_MARKS
    )
    return Tiny(build("Qwen3VLMoeForConditionalGeneration", config), FRAME_LAYOUTS, grids(), wants_ids=True)


def qwen3_5():
    config = config_of(
        "qwen3_5",
        text_config=TEXT | HEAD | LINEAR_ATTENTION,
        vision_config=DENSE_VISION,
        **VISUAL,
        **VISION_MARKS,
    )
    return Tiny(build("Qwen3_5ForConditionalGeneration", config), FRAME_LAYOUTS, grids(), wants_ids=True)


def qwen3_5_moe():
    config = config_of(
        "qwen3_5_moe",
        text_config=TEXT | HEAD | MOE | LINEAR_ATTENTION | {"shared_expert_intermediate_size": 16},
        vision_config=DENSE_VISION,
        **VISUAL,
        **VISION_MARKS,
    )
    return Tiny(build("Qwen3_5MoeForConditionalGeneration", config), FRAME_LAYOUTS, grids(), wants_ids=True)


def glm4v():
    config = config_of("glm4v", text_config=TEXT | FULL_ROPE, vision_config=GLM_VISION, **VISUAL, **GLM_MARKS)
    return Tiny(build("Glm4vForConditionalGeneration", config), GRID_LAYOUTS, image_grids(), wants_ids=True)


def glm4v_moe():
    text = (
        TEXT
        | FULL_ROPE
        | {
            "moe_intermediate_size": 16,
            "num_experts_per_tok": 2,
            "n_routed_experts": 4,
            "first_k_dense_replace": 1,
            "head_dim": 8,
        }
    )
    config = config_of("glm4v_moe", text_config=text, vision_config=GLM_VISION, **VISUAL, **GLM_MARKS)
    return Tiny(build("Glm4vMoeForConditionalGeneration", config), GRID_LAYOUTS, image_grids(), wants_ids=True)


def ernie4_5_vl_moe():
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_merge_size": 2,
        "intermediate_size": 48,
    }
    text = TEXT | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "moe_intermediate_size": [16, 16],
        "moe_k": 2,
        "moe_num_experts": 4,
        "mlp_layer_types": ["dense", "sparse"],
    }
    config = config_of("ernie4_5_vl_moe", text_config=text, vision_config=vision, **VISUAL, **GLM_MARKS)
    return Tiny(
        build("Ernie4_5_VLMoeForConditionalGeneration", config),
        ("tt<iiii>tt{vvvv}tttttt", "t<iiii>t{vvvv}tttt"),
        grids(48),
        wants_ids=True,
    )


def exaone4_5():
    vision = qwen25_vision() | {"num_key_value_heads": 1}
    config = config_of(
        "exaone4_5",
        text_config=TEXT
        | {
            "model_type": "exaone4",
            "head_dim": 8,
            "sliding_window": None,
            "layer_types": ["full_attention", "full_attention"],
        },
        vision_config=vision,
        **VISUAL,
    )
    return Tiny(build("Exaone4_5_ForConditionalGeneration", config), QWEN_LAYOUTS, grids())


def paddleocr_vl():
    vision = VISION | {"image_size": 16, "patch_size": 4, "spatial_merge_size": 2}
    config = config_of(
        "paddleocr_vl",
        text_config=TEXT | MROPE | {"head_dim": 8},
        vision_config=vision,
        image_token_id=IMAGE,
        **VISION_MARKS,
    )

    def media(seed):
        return {"pixel_values": noise(16, 3, 4, 4, seed=seed), "image_grid_thw": torch.tensor([[1, 4, 4]])}

    return Tiny(build("PaddleOCRVLForConditionalGeneration", config), GRID_LAYOUTS, both(media), wants_ids=True)


def kimi_k25():
    vision = VISION | {"patch_size": 4, "pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2}
    text = TEXT | {
        "model_type": "deepseek_v3",
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "n_shared_experts": 1,
        "num_key_value_heads": 4,
    }
    config = config_of("kimi_k25", text_config=text, vision_config=vision, projection_hidden_size=16, **VISUAL)

    def media(seed):
        return {"pixel_values": noise(16, 3, 4, 4, seed=seed), "image_grid_thw": torch.tensor([[1, 4, 4]])}

    return Tiny(build("Kimi_K25ForConditionalGeneration", config), GRID_LAYOUTS, both(media))


def video_llama_3():
    vision = VISION | {"patch_size": 4, "hidden_size": 32}
    config = config_of(
        "video_llama_3",
        vision_config=vision | {"model_type": "video_llama_3_vision"},
        text_config=TEXT | {"model_type": "qwen2"},
        **VISUAL,
    )
    merge = {"image_merge_sizes": torch.tensor([2]), "video_merge_sizes": torch.tensor([2])}
    media = tuple(grid | merge for grid in grids(48))
    return Tiny(build("VideoLlama3ForConditionalGeneration", config), QWEN_LAYOUTS, media)


def llava_onevision():
    config = config_of(
        "llava_onevision",
        vision_config=SIGLIP,
        text_config=LLAMA | {"model_type": "qwen2"},
        image_grid_pinpoints=[[8, 8]],
        **VISUAL_INDEX,
    )
    # 4 tokens of the whole, 2x2 of the tile with a newline a row; a pooled token a frame and a newline.
    layouts = ("ttiiiiiiiiiitvvvvttttt", "tiiiiiiiiiitvvvvttt")
    return Tiny(build("LlavaOnevisionForConditionalGeneration", config), layouts, both(tiles))


def llava_next_video():
    config = config_of(
        "llava_next_video",
        vision_config=CLIP,
        text_config=LLAMA,
        image_grid_pinpoints=[[8, 8]],
        **VISUAL_INDEX,
    )
    layouts = ("ttiiiiiiiiiitvvvttttt", "tiiiiiiiiiitvvvttt")
    return Tiny(build("LlavaNextVideoForConditionalGeneration", config), layouts, both(tiles))


def video_llava():
    config = config_of("video_llava", vision_config=CLIP, text_config=LLAMA, **VISUAL_INDEX)

    def media(seed):
        return {
            "pixel_values_images": noise(1, 3, 8, 8, seed=seed),
            "pixel_values_videos": noise(1, 8, 3, 8, 8, seed=seed + 9),
        }

    return Tiny(
        build("VideoLlavaForConditionalGeneration", config),
        ("ttiiiit" + 40 * "v" + "ttttt", "tiiiit" + 40 * "v" + "ttt"),
        both(media),
    )
