"""Configuration of the audio-visual-text model: three backbones, the projectors between them, placeholder tokens."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from moka.omni.towers import AUDIO_TOWERS, VISION_TOWERS

VISUAL, AUDIO = "visual", "audio"
PLACEHOLDER_IDS = ("image_token_id", "video_token_id", "audio_token_id")


@strict
class MokaProjectorConfig(PreTrainedConfig):
    """How an encoder's tokens become language model tokens.

    Args:
        type: "qformer": learned queries read each frame or audio window; "mlp": every encoder token is kept.
        num_queries: Tokens per frame or window ("qformer" only, like all below).
        hidden_size: Width of the Q-Former.
        num_layers: Its layers, each with cross attention to the encoder's tokens.
        num_heads: Its attention heads.
        intermediate_size: Width inside its feed-forward blocks.
        dropout: Dropout probability in its attention and feed-forward blocks.

    Raises:
        ValueError: A number is not positive, or the heads do not divide the width.
    """

    model_type = "moka_projector"

    type: Literal["qformer", "mlp"] = "qformer"
    num_queries: int = 32
    hidden_size: int = 768
    num_layers: int = 2
    num_heads: int = 12
    intermediate_size: int = 3072
    dropout: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("num_queries", "hidden_size", "num_layers", "num_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"projector {name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"projector dropout={self.dropout}: must be in [0, 1)")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"projector hidden_size={self.hidden_size} is no multiple of num_heads={self.num_heads}; change one"
            )
        super().__post_init__(**kwargs)


@strict
class MokaOmniConfig(PreTrainedConfig):
    """A causal LM that also reads images, video frames and audio windows.

    Args:
        text_config: Of the language model. This and the other parts' configs: a config or its fields as a dict.
        vision_config: Of the vision tower (CLIP, SigLIP), None for a model that cannot see.
        audio_config: Of the audio tower (AST, BEATs, Whisper), None for a model that cannot hear.
        vision_projector: Fields of `MokaProjectorConfig`, or one; only with a vision tower.
        audio_projector: The same, for audio.
        vision_feature_layer: Which hidden state of the vision tower is used; 0 is the embeddings, -1 the last layer.
        image_token_id: Token whose embedding is replaced by an image's features.
        video_token_id: The same, for video frames.
        audio_token_id: The same, for audio windows.
        backbones: Hub ids or folders the model was assembled from: "language_model", "vision_tower", "audio_tower".
        tie_word_embeddings: Whether the output layer shares the input embeddings; follows the text config.

    Raises:
        ValueError: A projector without its tower, placeholder ids that are equal or outside the vocabulary, a feature
            layer the tower does not have.
    """

    model_type = "moka_omni"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model", optional=True),
        "audio_config": SubConfigSpec(
            config_class=AutoConfig, model_type="audio-spectrogram-transformer", optional=True
        ),
        "vision_projector": SubConfigSpec(config_class=MokaProjectorConfig, optional=True),
        "audio_projector": SubConfigSpec(config_class=MokaProjectorConfig, optional=True),
    }

    text_config: Any = None
    vision_config: Any = None
    audio_config: Any = None
    vision_projector: Any = None
    audio_projector: Any = None
    vision_feature_layer: int = -2
    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    backbones: dict[str, str | None] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for tower, projector in (("vision_config", "vision_projector"), ("audio_config", "audio_projector")):
            if getattr(self, tower) is None and getattr(self, projector) is not None:
                raise ValueError(f"{projector} is given but {tower} is not: there is nothing to project")
            if getattr(self, tower) is not None and getattr(self, projector) is None:
                setattr(self, projector, {})
        super().__post_init__(**kwargs)
        for name, known in (("vision_config", VISION_TOWERS), ("audio_config", AUDIO_TOWERS)):
            tower = getattr(self, name)
            if tower is not None and tower.model_type not in known:
                raise ValueError(f"{name} is of type {tower.model_type!r}; use one of {', '.join(known)}")
        # The text config says it for a model assembled from a language model; the field is what tie_weights reads.
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        self._check_placeholders()
        if self.vision_config is not None:
            layers = self.vision_config.num_hidden_layers
            if not -layers - 1 <= self.vision_feature_layer <= layers:
                raise ValueError(
                    f"vision_feature_layer={self.vision_feature_layer}: the vision tower has {layers} layers, so it "
                    f"must be from {-layers - 1} to {layers}"
                )

    def _check_placeholders(self) -> None:
        ids = {name: getattr(self, name) for name in PLACEHOLDER_IDS if getattr(self, name) is not None}
        if len(set(ids.values())) < len(ids):
            raise ValueError(f"placeholder token ids must differ, got {ids}")
        for name, token_id in ids.items():
            if not 0 <= token_id < self.text_config.vocab_size:
                raise ValueError(
                    f"{name}={token_id} is outside the language model's {self.text_config.vocab_size} embeddings; "
                    "resize them first (moka.omni.assemble does)"
                )

    @property
    def visual_tokens(self) -> int | None:
        """Language model tokens an image or video frame takes; None without a vision tower."""
        if self.vision_config is None:
            return None
        if self.vision_projector.type == "qformer":
            return self.vision_projector.num_queries
        return VISION_TOWERS[self.vision_config.model_type].tokens(self.vision_config)

    @property
    def audio_tokens(self) -> int | None:
        """Language model tokens an audio window takes; None without an audio tower."""
        if self.audio_config is None:
            return None
        if self.audio_projector.type == "qformer":
            return self.audio_projector.num_queries
        return AUDIO_TOWERS[self.audio_config.model_type].tokens(self.audio_config)
