"""BEATs (https://arxiv.org/abs/2212.09058), an audio encoder that transformers lacks, with its checkpoints' names.

A window's log-mel filter bank is cut into patches of 16 by 16, which a transformer with a convolutional position
embedding and a gated relative position bias reads.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from moka.omni.weights import misfit

_LATER_BIAS = re.compile(r"encoder\.layers\.[1-9]\d*\.self_attn\.relative_attention_bias\.weight")


@strict
class BeatsConfig(PreTrainedConfig):
    """Sizes of a BEATs encoder, under the names of the official checkpoints' `cfg`.

    Args:
        embed_dim: Width of a patch's embedding.
        encoder_embed_dim, encoder_ffn_embed_dim, encoder_layers, encoder_attention_heads: Of the transformer.
        input_patch_size: Frames and mel bins of a patch.
        conv_bias: Whether the patch embedding has a bias.
        conv_pos, conv_pos_groups: Width and groups of the positional convolution.
        relative_position_embedding, num_buckets, max_distance: The relative position bias, as in T5.
        gru_rel_pos: Whether a gate that depends on the query scales the bias.
        deep_norm: Whether residuals weigh (2 layers) ** 0.25, as in DeepNet.
        layer_norm_first: Layer norm before each block instead of after it.
        activation_fn: "gelu" or "relu".
        dropout, attention_dropout, activation_dropout, dropout_input: Probabilities.
        finetuned_model, predictor_class, predictor_dropout: The classifier that fine-tuned checkpoints have.
        num_mel_bins, max_length: Shape of a window's filter bank; 198 frames are two seconds.
    """

    model_type = "beats"
    attribute_map = {"hidden_size": "encoder_embed_dim"}  # noqa: RUF012

    embed_dim: int = 512
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_layers: int = 12
    encoder_attention_heads: int = 12
    input_patch_size: int = 16
    conv_bias: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    gru_rel_pos: bool = True
    deep_norm: bool = True
    layer_norm_first: bool = False
    activation_fn: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    finetuned_model: bool = False
    predictor_class: int = 527
    predictor_dropout: float = 0.0
    num_mel_bins: int = 128
    max_length: int = 198

    def __post_init__(self, **kwargs: Any) -> None:
        if self.activation_fn not in ("gelu", "relu"):
            raise ValueError(f"activation_fn is {self.activation_fn!r}; BEATs here knows 'gelu' and 'relu'")
        if self.encoder_embed_dim % self.encoder_attention_heads:
            raise ValueError(
                f"encoder_embed_dim {self.encoder_embed_dim} is no multiple of {self.encoder_attention_heads} heads"
            )
        super().__post_init__(**kwargs)


class PositionalConv(nn.Module):
    """A grouped convolution over time whose weight is normalised over all but the kernel position (wav2vec 2.0)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, self.groups, kernel = config.encoder_embed_dim, config.conv_pos_groups, config.conv_pos
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(width, width // self.groups, kernel))
        self.bias = nn.Parameter(torch.empty(width))

    @property
    def weight(self) -> Tensor:
        """The effective weight (width, width / groups, kernel): g v / |v|."""
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, T) -> (N, width, T); an even kernel reaches one step further to the left."""
        kernel = self.weight_v.shape[-1]
        return F.conv1d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)[..., : x.shape[-1]]


class BeatsAttention(nn.Module):
    """Self-attention with a relative position bias that a gate, made from the query, scales (WavLM, equation 3)."""

    def __init__(self, config: BeatsConfig, *, has_bias_table: bool) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.heads, self.dropout = config.encoder_attention_heads, config.attention_dropout
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.is_gated = config.relative_position_embedding and config.gru_rel_pos
        if has_bias_table:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, self.heads)
        if self.is_gated:
            self.grep_linear = nn.Linear(width // self.heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(N, T, width) and the bias (heads, T, T) -> (N, T, width)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if bias is not None and self.is_gated:
            gates = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid()
            update, reset = gates.unbind(-1)
            bias = (update.unsqueeze(-1) * (reset.unsqueeze(-1) * self.grep_a - 1) + 2) * bias
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class BeatsLayer(nn.Module):
    """One transformer layer."""

    def __init__(self, config: BeatsConfig, *, has_bias_table: bool) -> None:
        super().__init__()
        width, inner = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.self_attn = BeatsAttention(config, has_bias_table=has_bias_table)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = F.gelu if config.activation_fn == "gelu" else F.relu
        self.dropout, self.inner_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)
        self.norm_first = config.layer_norm_first
        deep = config.deep_norm and not config.layer_norm_first
        self.residual_weight = (2 * config.encoder_layers) ** 0.25 if deep else 1.0

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), bias))
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x * self.residual_weight + self.dropout(self.self_attn(x, bias)))
        return self.final_layer_norm(x * self.residual_weight + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.inner_dropout(self.activation(self.fc1(x)))))


class BeatsEncoder(nn.Module):
    """The transformer behind the patch embedding."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        # A list, so that the convolution is pos_conv.0, as in the checkpoints.
        self.pos_conv = nn.Sequential(PositionalConv(config), nn.GELU())
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            BeatsLayer(config, has_bias_table=config.relative_position_embedding and index == 0)
            for index in range(config.encoder_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        x = x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not self.config.layer_norm_first:
            x = self.layer_norm(x)
        x, bias = self.dropout(x), self.position_bias(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, bias)
        return self.layer_norm(x) if self.config.layer_norm_first else x

    def position_bias(self, length: int, device: torch.device) -> Tensor | None:
        """The ungated bias (heads, length, length), or None; the first layer's table serves all layers."""
        if not self.config.relative_position_embedding:
            return None
        places = torch.arange(length, device=device)
        buckets = relative_position_buckets(
            places - places[:, None], num_buckets=self.config.num_buckets, max_distance=self.config.max_distance
        )
        table: Any = self.layers[0].self_attn
        return table.relative_attention_bias(buckets).permute(2, 0, 1)


def relative_position_buckets(distance: Tensor, *, num_buckets: int, max_distance: int) -> Tensor:
    """Map key - query to buckets, half of them for each direction, exact when near and logarithmic when far (T5).

    Args:
        distance: Integers of any shape.
        num_buckets: Number of buckets.
        max_distance: From here on all distances share the last bucket.
    """
    half = num_buckets // 2
    exact = half // 2
    far = distance.abs().clamp(min=1).float()
    scale = (half - exact) / math.log(max_distance / exact)
    logarithmic = (exact + (far / exact).log() * scale).long().clamp(max=half - 1)
    return half * (distance > 0) + torch.where(distance.abs() < exact, distance.abs(), logarithmic)


class BeatsModel(PreTrainedModel):
    """BEATs from filter banks to tokens, and to class scores where the checkpoint was fine-tuned.

    Args:
        config: Sizes.
    """

    config: BeatsConfig
    config_class = BeatsConfig
    base_model_prefix = "beats"
    main_input_name = "input_values"
    input_modalities = ("audio",)  # type: ignore[assignment]
    _no_split_modules = ["BeatsLayer"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        patch, width = config.input_patch_size, config.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, width) if config.embed_dim != width else None
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.encoder = BeatsEncoder(config)
        self.predictor = nn.Linear(width, config.predictor_class) if config.finetuned_model else None
        self.predictor_dropout = nn.Dropout(config.predictor_dropout)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PositionalConv):
            init.normal_(module.weight_v, mean=0.0, std=0.02)
            init.copy_(module.weight_g, module.weight_v.norm(dim=(0, 1), keepdim=True))
            init.zeros_(module.bias)
        elif isinstance(module, BeatsAttention) and module.is_gated:
            init.ones_(module.grep_a)

    def forward(self, input_values: Tensor, **_: Any) -> BaseModelOutput:
        """Encode windows.

        Args:
            input_values: Normalised log-mel filter banks (N, frames, mel bins); see `BeatsFeatureExtractor`. Frames
                beyond a whole number of patches are not seen.

        Returns:
            `last_hidden_state` of shape (N, tokens, width): patch after patch, the mel direction running fastest.

        Raises:
            ValueError: Not three dimensions, or fewer frames than a patch has.
        """
        patch = self.config.input_patch_size
        if input_values.dim() != 3 or min(input_values.shape[1:]) < patch:
            raise ValueError(
                f"input_values have shape {tuple(input_values.shape)}; expected (windows, frames, mel bins) with at "
                f"least {patch} frames and mel bins"
            )
        x = self.patch_embedding(input_values.unsqueeze(1).to(self.patch_embedding.weight.dtype))
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        return BaseModelOutput(last_hidden_state=self.encoder(self.dropout_input(x)))

    def classify(self, last_hidden_state: Tensor) -> Tensor:
        """Class probabilities (N, classes) of encoded windows (N, tokens, width): sigmoid of the mean logits.

        Raises:
            ValueError: The checkpoint was not fine-tuned, so it has no classifier.
        """
        if self.predictor is None:
            raise ValueError("this BEATs has no classifier: config.finetuned_model is False")
        return self.predictor(self.predictor_dropout(last_hidden_state)).mean(1).sigmoid()

    @classmethod
    def from_official(cls, file: str | Path, max_length: int = 198) -> "BeatsModel":
        """Load an official checkpoint, such as BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt, without running code.

        Args:
            file: A torch file of {"cfg": settings, "model": weights}.
            max_length: Frames of a window, which the checkpoint does not fix; 198 are two seconds.

        Raises:
            ValueError: The file is not such a checkpoint, or its weights do not fit its settings; lists the names.
        """
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not {"cfg", "model"} <= checkpoint.keys():
            raise ValueError(f"{file}: not a BEATs checkpoint: it must hold 'cfg' and 'model'")
        known = BeatsConfig().to_dict().keys()
        sizes = {name: value for name, value in checkpoint["cfg"].items() if name in known}
        model = cls(BeatsConfig(**sizes | {"max_length": max_length}))
        weights = dict(checkpoint["model"])
        shared = weights.get("encoder.layers.0.self_attn.relative_attention_bias.weight")
        for name in filter(_LATER_BIAS.fullmatch, list(weights)):
            if shared is None or not torch.equal(weights.pop(name), shared):
                raise ValueError(f"{file}: {name} differs from the first layer's, which all layers share")
        if problem := misfit(model.state_dict(), weights):
            raise ValueError(f"{file}: its weights do not fit its cfg: {problem}")
        model.load_state_dict(weights)
        return model.eval()
