"""What the tiny multimodal models share: sizes, layouts, media, and the prompts made of them."""

from collections import Counter
from dataclasses import dataclass, field

import torch
import transformers
from transformers import PreTrainedModel

PAD, EOS, BOS = 0, 1, 2
IMAGE, VIDEO, AUDIO = 90, 91, 92
SYMBOLS = {"i": IMAGE, "v": VIDEO, "a": AUDIO, "<": 93, ">": 94, "{": 95, "}": 96}  # other characters: text
CODES = {"i": 1, "v": 2, "a": 3}
ANSWER = "yyy"
SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
} | SPECIAL
HEAD = {"head_dim": 8}
WINDOWS = HEAD | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
LLAMA = TEXT | {"model_type": "llama", "head_dim": 8}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = VISION | {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4}
SIGLIP = CLIP | {"model_type": "siglip_vision_model", "vision_use_head": False}
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
DEEPSTACK = QWEN_VISION | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
VISUAL = {"image_token_id": IMAGE, "video_token_id": VIDEO}
VISUAL_INDEX = {"image_token_index": IMAGE, "video_token_index": VIDEO}
VISION_MARKS = {"vision_start_token_id": 93, "vision_end_token_id": 94}
IMAGE_LAYOUTS = ("tttiiiitttttt", "tiiiitttt")


@dataclass
class Tiny:
    """
    A tiny model and its prompts.

    Args:
        model (`PreTrainedModel`): The model, in eval mode.
        layouts (`tuple[str, str]`): The two prompts, one character a token.
        media (`tuple[dict, dict]`): Each prompt's media arguments. Along the first dimension, those of several prompts
            are concatenated.
        wants_ids (`bool`): Whether the model's own forward needs `mm_token_type_ids`, which its processor makes.
        token_types (`str`): The symbols whose `token_type_ids` are 1, for the models that need these ('y': answer).
        part (`str`): Name of the sub-model whose forward runs, where the model itself has none; also the prefix that
            the model's `generate` wants before `max_new_tokens`.
        generation (`dict`): What else `generate` must be given.
        beams (`bool`): Whether the model itself can search with beams.
        text_alone (`bool`): Whether the model itself takes inputs without media.
        settings (`dict`): What `MokaConfig` must be given beside the rank.
    """

    model: PreTrainedModel
    layouts: tuple[str, str]
    media: tuple[dict, dict]
    wants_ids: bool = False
    token_types: str = ""
    part: str = ""
    generation: dict = field(default_factory=dict)
    beams: bool = True
    text_alone: bool = True
    settings: dict = field(default_factory=dict)

    def modality_ids(self, rows=(0, 1), answer=False):
        """What the modality ids must be, from the layouts alone."""
        return self._pad([[CODES.get(c, 0) for c in row] for row in self._layouts(rows, answer)], 0)

    def counts(self, rows=(0, 1)):
        """How many tokens of each media code there are."""
        return Counter(CODES[c] for row in rows for c in self.layouts[row] if c in CODES)

    def inputs(self, rows=(0, 1), answer=False):
        """A left-padded batch of prompts; with `answer`, an answer follows each, and `labels` mark it."""
        layouts = self._layouts(rows, answer)
        ids = []
        for row, layout in zip(rows, layouts, strict=True):
            text = torch.randint(3, 80, (len(layout),), generator=torch.Generator().manual_seed(row)).tolist()
            ids.append([SYMBOLS.get(c, word) for c, word in zip(layout, text, strict=True)])
        batch = {"input_ids": self._pad(ids, PAD), "attention_mask": self._pad([[1] * len(row) for row in ids], 0)}
        for name in self.media[rows[0]]:
            batch[name] = torch.cat([self.media[row][name] for row in rows])
        if self.wants_ids:
            batch["mm_token_type_ids"] = self.modality_ids(rows, answer)
        if self.token_types:
            kinds = [[int(c in self.token_types) for c in layout] for layout in layouts]
            batch["token_type_ids"] = self._pad(kinds, 0)
        if answer:
            marks = self._pad([[int(c == "y") for c in layout] for layout in layouts], 0).bool()
            batch["labels"] = torch.where(marks, batch["input_ids"], -100)
        return batch

    def _layouts(self, rows, answer):
        return [self.layouts[row] + (ANSWER if answer else "") for row in rows]

    @staticmethod
    def _pad(rows, fill):
        width = max(map(len, rows))
        return torch.tensor([[fill] * (width - len(row)) + row for row in rows])


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def config_of(model_type, **values):
    """The config class of a model type, as `AutoConfig` finds it."""
    return transformers.AutoConfig.for_model(model_type, **values)


def build(name, config):
    """A seeded model of the transformers class `name`."""
    torch.manual_seed(0)
    return getattr(transformers, name)(config).eval()


def both(make):
    """The two prompts' media, from a function of the seed."""
    return make(1), make(2)


def picture(seed, size=8):
    return {"pixel_values": noise(1, 3, size, size, seed=seed)}


def big_picture(seed):
    return picture(seed, size=16)


def tiles(seed):
    """An image of 8x8 pixels as the whole and one tile, and a video of three frames."""
    return {
        "pixel_values": noise(1, 2, 3, 8, 8, seed=seed),
        "image_sizes": torch.tensor([[8, 8]]),
        "pixel_values_videos": noise(1, 3, 3, 8, 8, seed=seed + 9),
    }


def patches(grid, features, prefix, seed):
    """Flattened patches of one image or video, as the Qwen processors make them."""
    name = {"image": "pixel_values", "video": "pixel_values_videos"}[prefix]
    count = grid[0] * grid[1] * grid[2]
    return {name: noise(count, features, seed=seed), f"{prefix}_grid_thw": torch.tensor([grid])}


def grids(features=96):
    """An image of 4 tokens and a video of 8, after merging 2x2 patches."""
    return both(
        lambda seed: patches((1, 4, 4), features, "image", seed) | patches((2, 4, 4), features, "video", seed + 9)
    )


def qwen25_vision():
    return QWEN_VISION | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }


WHISPER = {
    "num_mel_bins": 16,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "max_source_positions": 16,
}


def mel(seed):
    """32 frames of 16 mel bands."""
    return {"input_features": noise(1, 16, 32, seed=seed)}


def masked_mel(seed):
    return mel(seed) | {"feature_attention_mask": torch.ones(1, 32, dtype=torch.long)}


def mel_with_mask(seed):
    return mel(seed) | {"input_features_mask": torch.ones(1, 32, dtype=torch.long)}
