"""The adapted linear layer: stacked A, question attention in the rank space, shared B."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from moka.adapter.config import MokaConfig
from moka.adapter.router import Router


class MokaLayer(BaseTunerLayer):
    """Mark the modules that hold MokA weights, and name them for PEFT.

    `moka_A[name]` is one linear layer `in -> slots*r`: rows `m*r .. m*r+r` are the A of slot m, so that all modalities
    cost one matrix product and a batch without some modality still gives every parameter a gradient.
    `moka_B[name]` is the shared `r -> out`.
    """

    adapter_layer_names = ("moka_A", "moka_B")
    other_param_names = ("r", "scaling", "moka_dropout", "moka_config")


class MokaLinear(nn.Module, MokaLayer):
    """
    A frozen linear layer with MokA adapters (https://arxiv.org/abs/2506.05191, equations of section 3).

    Args:
        base_layer (`nn.Module`): The linear layer to adapt.
        adapter_name (`str`): Name of the first adapter.
        config (`MokaConfig`): Its configuration.
        router (`Router`): Where the layer reads the current forward's routing.
    """

    def __init__(self, base_layer: nn.Linear, adapter_name: str, config: MokaConfig, router: Router) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.router = router
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.moka_config: dict[str, MokaConfig] = {}
        self.moka_dropout = nn.ModuleDict()
        self.moka_A = nn.ModuleDict()
        self.moka_B = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.text_merged: set[str] = set()
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: MokaConfig) -> None:
        """Add an adapter: A Kaiming-uniform, B zero, so that it starts as the base layer."""
        self.r[adapter_name] = config.r
        self.scaling[adapter_name] = config.scaling
        self.moka_config[adapter_name] = config
        self.moka_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        down = nn.Linear(self.in_features, len(config.modalities) * config.r, bias=False)
        up = nn.Linear(config.r, self.out_features, bias=False)
        # The fan-in is in_features for every slot, so initialising the stack initialises each A as LoRA's.
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.moka_A[adapter_name], self.moka_B[adapter_name] = down, up
        if config.text_merged:
            self.text_merged.add(adapter_name)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and add each active adapter's update: `(batch, length, in)` -> `(.., .., out)`."""
        result = self.base_layer(x, *args, **kwargs)
        active = [] if self.disable_adapters else [name for name in self.active_adapters if name in self.moka_A]
        dtype = result.dtype
        for name in self.text_merged.difference(active):
            result = result - self._text_delta(name, x)
        for name in active:
            delta = self._delta(name, x)
            if delta is not None:
                result = result + delta
        return result.to(dtype)

    def _delta(self, name: str, x: Tensor) -> Tensor | None:
        """One adapter's update, without what is in the base weight already; `None` if that is all of it."""
        routing = self.router.routing_for(name, x)
        merged = name in self.text_merged
        if merged and self.training:
            raise RuntimeError(
                f"The text part of adapter {name!r} is merged into the base weights, so that it would not be trained: "
                "call unmerge_text() first, or eval() for inference."
            )
        if merged and routing.slots is None:
            return None
        config, scaling = self.moka_config[name], self.scaling[name]
        down: nn.Linear = self.moka_A[name]  # type: ignore[assignment]
        x = self.moka_dropout[name](self._cast_input_dtype(x, down.weight.dtype))
        before, after = (scaling, 1.0) if config.scale_before_attention else (1.0, scaling)
        # Every token gets the A of its own slot.
        if routing.slots is None:
            z = F.linear(x, down.weight[: self.r[name]])
        else:
            z = routing.select(down(x), self.r[name])
        if before != 1:
            z = z * before
        attended = routing.attend(z)
        if attended is not None:
            z = z + config.cross_weight * attended
        if merged:
            z = z - before * F.linear(x, down.weight[: self.r[name]])
        return self.moka_B[name](z) * after

    def _text_delta(self, name: str, x: Tensor) -> Tensor:
        """The update of an adapter if all tokens were text."""
        down: nn.Linear = self.moka_A[name]  # type: ignore[assignment]
        z = F.linear(self._cast_input_dtype(x, down.weight.dtype), down.weight[: self.r[name]])
        return self.moka_B[name](z) * self.scaling[name]

    @torch.no_grad()
    def merge_text(self, name: str) -> None:
        """Add the update of text tokens, s B A_text, to the base weight; media get the difference in the forward.

        Args:
            name (`str`): The adapter.

        Raises:
            ValueError: If the sum is not finite.
        """
        if name in self.moka_A and name not in self.text_merged:
            self.base_layer.weight.copy_(self.text_merged_weight(name))
            self.text_merged.add(name)

    @torch.no_grad()
    def unmerge_text(self, name: str) -> None:
        """Undo `merge_text`, up to rounding."""
        if name in self.text_merged:
            weight: Tensor = self.base_layer.weight
            weight.copy_(weight.to(self._wide) - self._text_weight(name))
            self.text_merged.remove(name)

    @torch.no_grad()
    def text_merged_weight(self, name: str) -> Tensor:
        """Return the base weight with an adapter's text part in it, whether or not it is merged.

        Raises:
            ValueError: If it is not finite.
        """
        weight: Tensor = self.base_layer.weight
        if name in self.text_merged:
            return weight
        merged = (weight.to(self._wide) + self._text_weight(name)).to(weight.dtype)
        if not merged.isfinite().all():
            raise ValueError(f"Adapter {name!r} cannot be merged: weights that are not finite would come out.")
        return merged

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter, its merged part included."""
        self.unmerge_text(adapter_name)
        super().delete_adapter(adapter_name)

    def _text_weight(self, name: str) -> Tensor:
        down: nn.Linear = self.moka_A[name]  # type: ignore[assignment]
        up: nn.Linear = self.moka_B[name]  # type: ignore[assignment]
        return self.scaling[name] * (up.weight.to(self._wide) @ down.weight[: self.r[name]].to(self._wide))

    @property
    def _wide(self) -> torch.dtype:
        """What merging computes in: at least float32, so that a sum is rounded once."""
        return torch.promote_types(self.base_layer.weight.dtype, torch.float32)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: the update depends on a token's modality and question, so no single weight holds it."""
        raise NotImplementedError(
            "MokA cannot be merged into the base weights: its update depends on each token's modality and on the "
            "question. merge_text() merges what text tokens get; unload() drops the adapter."
        )

    def unmerge(self) -> None:
        """Refuse, as `merge` does."""
        raise NotImplementedError("MokA adapters are never merged, so there is nothing to unmerge.")

    def __repr__(self) -> str:
        return "moka." + super().__repr__()
