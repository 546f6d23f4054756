"""Tiny language models and routed inputs for the adapter's tests."""

from dataclasses import dataclass

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from moka.adapter import MokaConfig

VIDEO, AUDIO, PAD = 60, 61, 0
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
BACKBONES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def build_base(name="llama", seed=0, **overrides):
    """Build a tiny causal LM whose config names a video and an audio placeholder."""
    config_class, model_class = BACKBONES[name]
    extra = {"head_dim": 8} if name == "qwen3" else {}
    config = config_class(**SHAPE | extra | overrides)
    config.video_token_id, config.audio_token_id = VIDEO, AUDIO
    torch.manual_seed(seed)
    return model_class(config).eval()


def randomise(model, seed=1, names=("moka_A", "moka_B", "lora_A", "lora_B")):
    """Give the adapter weights random values: a zero B would hide every mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in names):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def build_moka(name="llama", config=None, **overrides):
    """Build a tiny LM with a MokA adapter of random weights, in eval mode."""
    config = config or MokaConfig(r=4, dropout=0.0, task_type="CAUSAL_LM", **overrides)
    return randomise(get_peft_model(build_base(name), config)).eval()


@dataclass
class Sample:
    """One sequence: 'v' video, 'a' audio, 'q' question, 't' other prompt text, 'y' answer."""

    layout: str

    def tensors(self, seed):
        generator = torch.Generator().manual_seed(seed)
        text = torch.randint(3, 60, (len(self.layout),), generator=generator)
        ids = torch.tensor(
            [{"v": VIDEO, "a": AUDIO}.get(kind, int(t)) for kind, t in zip(self.layout, text, strict=True)]
        )
        question = torch.tensor([kind == "q" for kind in self.layout])
        labels = torch.tensor([int(i) if kind == "y" else -100 for kind, i in zip(self.layout, ids, strict=True)])
        return ids, question, labels


def batch(*layouts, side="left", labels=False, question=True, seed=0, length=None):
    """Collate layouts into a padded batch."""
    rows = [Sample(layout).tensors(seed + i) for i, layout in enumerate(layouts)]
    length = length or max(map(len, layouts))

    def pad(values, fill):
        missing = length - len(values)
        filler = values.new_full((missing,), fill)
        return torch.cat([filler, values] if side == "left" else [values, filler])

    out = {
        "input_ids": torch.stack([pad(ids, PAD) for ids, _, _ in rows]),
        "attention_mask": torch.stack([pad(torch.ones_like(ids), 0) for ids, _, _ in rows]),
    }
    if question:
        out["question_mask"] = torch.stack([pad(q, False) for _, q, _ in rows])
    if labels:
        out["labels"] = torch.stack([pad(y, -100) for _, _, y in rows])
    # Position ids make left padding exact, as generate() does.
    out["position_ids"] = (out["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return out


@pytest.fixture
def moka_model():
    return build_moka()
