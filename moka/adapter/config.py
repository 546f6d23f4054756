"""Configuration of the MokA adapter."""

import math
from dataclasses import dataclass, field

from peft import PeftConfig
from peft.utils import PeftType


def default_modalities() -> dict[str, list[int]]:
    """Return the default slots over transformers' `mm_token_type_ids`: 0 text, 1 image, 2 video, 3 audio."""
    return {"text": [0], "visual": [1, 2], "audio": [3]}


@dataclass
class MokaConfig(PeftConfig):
    """
    Configuration of [`MokaModel`], the modality-aware low-rank adapter of https://arxiv.org/abs/2506.05191.

    Args:
        r (`int`, defaults to 4): Rank of every modality's A and of the shared B.
        alpha (`float`, defaults to 16): The update is multiplied by `alpha / r`.
        dropout (`float`, defaults to 0.05): Dropout probability on the adapter's input.
        cross_weight (`float`, defaults to 1.0):
            Weight (the paper's lambda) of the attention from media tokens to the question. 0 turns the attention off.
        use_rslora (`bool`, defaults to `False`): Scale by `alpha / sqrt(r)` instead.
        scale_before_attention (`bool`, defaults to `False`):
            Scale A's output instead of B's, so that the attention sees scaled values: the authors' audio-visual code.
            `False` is the paper's formula.
        modalities (`dict[str, list[int]]`):
            The modality slots, each with the `mm_token_type_ids` that belong to it. Every slot has an A of its own.
            The slot that holds 0 is text: its question tokens are what the other slots attend to. Slots are ordered
            by their smallest id, whatever the order given, so that text is slot 0.
        target_modules (`list[str]` or `str`, *optional*):
            Names (matched as suffixes) or a regular expression of the linear layers to adapt, all inside the language
            model. By default its q, k, v, o, gate, up and down projections, or, where its blocks fuse, rename or
            replace some of these, all linear layers of the blocks but experts and routers.
        exclude_modules (`list[str]` or `str`, *optional*): Names or a regular expression of layers to leave alone.
        modules_to_save (`list[str]`, *optional*):
            Modules trained in full and saved with the adapter, such as the projectors of the encoders.
        text_merged (`bool`, defaults to `False`):
            Whether the base model's weights hold the text tokens' update already, as those that `export` writes do.

    Raises:
        ValueError: If a value is out of range or the slots overlap or lack the text id 0.
    """

    r: int = field(default=4, metadata={"help": "Rank of every A and of B."})
    alpha: float = field(default=16, metadata={"help": "The update is scaled by alpha / r."})
    dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapter's input."})
    cross_weight: float = field(default=1.0, metadata={"help": "Weight of the attention to the question; 0 = off."})
    use_rslora: bool = field(default=False, metadata={"help": "Scale by alpha / sqrt(r)."})
    scale_before_attention: bool = field(default=False, metadata={"help": "Scale A's output instead of B's."})
    modalities: dict[str, list[int]] = field(
        default_factory=default_modalities, metadata={"help": "Slot name -> the mm_token_type_ids it holds."}
    )
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Layers to leave alone."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved in full."})
    text_merged: bool = field(default=False, metadata={"help": "The base weights hold the text tokens' update."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.MOKA  # type: ignore[attr-defined]  # added by moka.adapter
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # PEFT's own convention
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        if self.r < 1:
            raise ValueError(f"r must be a positive integer, got {self.r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if not math.isfinite(self.cross_weight):
            raise ValueError(f"cross_weight must be finite, got {self.cross_weight}.")
        self._check_modalities()

    def _check_modalities(self) -> None:
        codes = [code for held in self.modalities.values() for code in held]
        if 0 not in codes:
            raise ValueError(f"No slot of modalities={self.modalities} holds the id 0 (text).")
        if len(set(codes)) != len(codes):
            raise ValueError(f"modalities={self.modalities} puts an id in more than one slot.")
        if any(not held for held in self.modalities.values()) or any(code < 0 for code in codes):
            raise ValueError(f"modalities={self.modalities}: every slot needs ids, all of them 0 or above.")
        # PEFT writes JSON with sorted keys, so the order given would not survive a reload.
        self.modalities = dict(sorted(self.modalities.items(), key=lambda slot: min(slot[1])))

    @property
    def scaling(self) -> float:
        """The factor on the update: `alpha / r`, or `alpha / sqrt(r)` with rsLoRA."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)
