"""The PEFT tuner that puts MokA into a model."""

from __future__ import annotations

import re
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from moka.adapter.config import MokaConfig
from moka.adapter.layer import MokaLayer, MokaLinear
from moka.adapter.router import Router

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class MokaModel(BaseTuner):
    """
    Modality-aware low-rank adapters in a language model (https://arxiv.org/abs/2506.05191).

    Made by `peft.get_peft_model(model, MokaConfig())`. The wrapped model's forward and `generate` take, beside their
    own arguments, `mm_token_type_ids` (or `modality_ids`) and `question_mask`, both of shape `(batch, length)`.
    Without them, modalities are read off the placeholder tokens that the model's config names, and the question is
    the text whose label is -100 or, without labels, the prompt. Media attend to the question, so both belong into one
    forward; `generate` refuses to split them, a cache that the caller fills by hand is not watched.

    Args:
        model (`nn.Module`): The model to adapt.
        config (`MokaConfig`): The adapter's configuration.
        adapter_name (`str`): Its name.
    """

    prefix = "moka_"
    tuner_layer_cls = MokaLayer

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        if "moka_router" not in model.__dict__:
            Router().attach(model)

    def _prepare_adapter_config(  # type: ignore[override]
        self, peft_config: MokaConfig, model_config: dict[str, Any]
    ) -> MokaConfig:
        return peft_config

    def _prepare_model(self, peft_config: MokaConfig, model: nn.Module) -> None:  # type: ignore[override]
        language_model = _language_model_name(model)
        if peft_config.target_modules is None:
            peft_config.target_modules = _default_targets(model, language_model)
        elif language_model is not None:
            _refuse_outside(peft_config, model, language_model)

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: MokaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if isinstance(target, MokaLinear):
            target.update_layer(adapter_name, peft_config)
            return
        if not isinstance(target, nn.Linear):
            raise TypeError(
                f"MokA adapts torch.nn.Linear layers; {current_key} is a {type(target).__name__}. Leave it out of "
                "target_modules."
            )
        router = self.model.__dict__["moka_router"]
        layer = MokaLinear(target, adapter_name, peft_config, router)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(
            "MokA cannot be merged into the base weights: its update depends on each token's modality and on the "
            "question, which no single weight holds. Keep the adapter loaded, or drop it with unload()."
        )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refuse: see `MokaLinear.merge`."""
        self._check_merge_allowed()

    def unload(self) -> nn.Module:
        """Return the base model with its own layers and without the hooks."""
        model = super().unload()
        router: Router = model.__dict__["moka_router"]
        router.detach(model)
        return model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the base model (peft before 0.21 calls its `forward`, which would skip the hooks)."""
        return self.model(*args, **kwargs)


def _language_model_name(model: nn.Module) -> str | None:
    """Return the name of the language model inside `model` ('' if it is the model itself, None if it has none)."""
    if not isinstance(model, PreTrainedModel):
        return None
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), None)


def _default_targets(model: nn.Module, language_model: str | None) -> str:
    """Return the regular expression of the language model's seven projections, all of which it must have."""
    if language_model is None:
        raise ValueError(
            "The language model was not found (only transformers models tell, through get_decoder()), so MokA does "
            "not know its layers: set MokaConfig(target_modules=...)."
        )
    inside = model.get_submodule(language_model)
    linear = (nn.Linear, MokaLinear)
    found = {name.rsplit(".", 1)[-1] for name, module in inside.named_modules() if isinstance(module, linear)}
    missing = [name for name in PROJECTIONS if name not in found]
    if missing:
        raise ValueError(
            f"The language model {type(inside).__name__} has no layers named {missing}; its linear layers are called "
            f"{sorted(found)}. Set MokaConfig(target_modules=...)."
        )
    prefix = re.escape(language_model) + r"\." if language_model else ""
    return rf"{prefix}(?:.+\.)?(?:{'|'.join(PROJECTIONS)})"


def _refuse_outside(config: MokaConfig, model: nn.Module, language_model: str) -> None:
    """Refuse targets in the encoders, whose inputs are not the token sequence that modality ids speak of."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    inside = language_model + "." if language_model else ""
    outside = [
        name
        for name, module in model.named_modules()
        if check_target_module_exists(config, name) and not name.startswith(inside) and module is not head
    ]
    if outside:
        raise ValueError(
            f"target_modules={config.target_modules!r} matches {len(outside)} layers outside the language model "
            f"({language_model!r}), such as {outside[0]!r}: MokA routes the language model's tokens only. Leave "
            "target_modules at its default, or pass a regular expression that starts with the language model's name."
        )
