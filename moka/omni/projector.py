"""From an encoder's tokens of one frame or audio window to language model tokens: everything trained in stage 1."""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from moka.omni.configuration import MokaProjectorConfig


class QueryResampler(nn.Module):
    """Learned queries that read the encoder's tokens through a Q-Former (BLIP-2, https://arxiv.org/abs/2301.12597).

    The Q-Former starts from random weights, attends to the encoder in every layer and never sees the question.

    Args:
        config: Number of queries and size of the Q-Former.
        encoder_width: Width of the encoder's tokens.
    """

    def __init__(self, config: MokaProjectorConfig, encoder_width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, config.num_queries, config.hidden_size))
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_size,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                encoder_hidden_size=encoder_width,
                cross_attention_frequency=1,
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Encoder tokens (N, T, encoder width) -> (N, num_queries, hidden size)."""
        query = self.query.expand(features.shape[0], -1, -1)
        return self.qformer(query_embeds=query, encoder_hidden_states=features).last_hidden_state


class MokaProjector(nn.Module):
    """LayerNorm, then a Q-Former with learned queries or nothing, then a two-layer GELU MLP to the LM's width.

    Args:
        config: Kind and sizes.
        encoder_width: Width of the encoder's tokens.
        language_width: Width of the language model's embeddings.
    """

    def __init__(self, config: MokaProjectorConfig, encoder_width: int, language_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(encoder_width)
        resamples = config.type == "qformer"
        self.resampler = QueryResampler(config, encoder_width) if resamples else nn.Identity()
        width = config.hidden_size if resamples else encoder_width
        self.mlp = nn.Sequential(
            nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project the tokens of N frames or windows, each on its own.

        Args:
            features: (N, T, encoder width), in any floating dtype.

        Returns:
            (N, num_queries or T, language width), in the projector's dtype.
        """
        return self.mlp(self.resampler(self.norm(features.to(self.norm.weight.dtype))))
