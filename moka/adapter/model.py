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
from moka.adapter.merge import TextMerge
from moka.adapter.router import Router, running_model

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Parts of a mixture of experts. Experts (shared ones too) see a selected, reordered or flattened list of tokens, to
# which no modality id can be assigned; routers choose experts.
MIXTURE = ("expert", "router")
# Never adapted by default: a router by another name, and multi-head latent attention's expansion of keys and values,
# which runs over all tokens in the cache at every step, so that their modalities are not those of the input.
SKIPPED = {"gate", "kv_b_proj"}
LINEAR = (nn.Linear, MokaLinear)


class MokaModel(TextMerge, BaseTuner):
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
        runs = running_model(model)
        if "moka_router" not in runs.__dict__:
            Router().attach(runs)

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
        router = running_model(self.model).__dict__["moka_router"]
        layer = MokaLinear(target, adapter_name, peft_config, router)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(
            "MokA cannot be merged into the base weights: its update depends on each token's modality and on the "
            "question, which no single weight holds. merge_text() merges what text tokens get and keeps media exact, "
            "export() writes that to a folder, unload() drops the adapter."
        )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refuse: see `MokaLinear.merge`."""
        self._check_merge_allowed()

    def unload(self) -> nn.Module:
        """Return the base model with its own weights and layers, and without the hooks."""
        self.unmerge_text()
        model = super().unload()
        runs = running_model(model)
        router: Router = runs.__dict__["moka_router"]
        router.detach(runs)
        return model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the base model (peft before 0.21 calls its `forward`, which would skip the hooks)."""
        return self.model(*args, **kwargs)


def _language_model_name(model: nn.Module) -> str | None:
    """Return the name of the language model inside `model` ('' if it is the model itself, None if it has none)."""
    runs = running_model(model)
    if not isinstance(runs, PreTrainedModel):
        return None
    if runs.config.is_encoder_decoder:
        raise ValueError(
            f"{type(runs).__name__} is an encoder-decoder model: its decoder sees other tokens than those that the "
            "modality ids speak of. MokA needs a decoder-only language model that has the media among its tokens."
        )
    decoder = runs.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), None)


def _blocks(model: nn.Module, language_model: str) -> dict[str, nn.ModuleList]:
    """Return the language model's lists of transformer blocks by name: the outermost, of one parent.

    Outermost, because an encoder that a model keeps within its language model lies deeper than its own blocks.
    """
    lists = {
        ".".join(filter(None, (language_model, name))): module
        for name, module in model.get_submodule(language_model).named_modules()
        if isinstance(module, nn.ModuleList) and not any(isinstance(block, LINEAR) for block in module)
    }
    depth = min((name.count(".") for name in lists), default=0)
    lists = {name: blocks for name, blocks in lists.items() if name.count(".") == depth}
    return lists if len({name.rpartition(".")[0] for name in lists}) == 1 else {}


def _default_targets(model: nn.Module, language_model: str | None) -> str:
    """Return a regular expression of the layers of the language model to adapt.

    They are the seven projections where there are all seven and every block attends by them, else every linear layer
    of the blocks, so that a model that fuses, renames or replaces projections is never adapted in part. What lies
    beside the blocks (embeddings, head, encoders that some models keep within) is left alone, and so are mixtures of
    experts.
    """
    if language_model is None:
        raise ValueError(
            "The language model was not found (only transformers models tell, through get_decoder()), so MokA does "
            "not know its layers: set MokaConfig(target_modules=...)."
        )
    decoder = model.get_submodule(language_model)
    cross = next((name for name, _ in decoder.named_modules() if "cross_att" in name), None)
    if cross is not None:
        raise ValueError(
            f"{type(decoder).__name__} reads media through cross-attention ({cross!r}), not as tokens of its own "
            "sequence, so there are no media tokens for MokA to route. To adapt its text tokens all the same, set "
            "MokaConfig(target_modules=...) to layers outside the cross-attention."
        )
    lists = _blocks(model, language_model)
    blocks = [_linear_names(block) for modules in lists.values() for block in modules]
    found = set().union(*blocks)
    if not found:
        raise ValueError(
            f"{type(decoder).__name__} has no one list of transformer blocks with "
            "torch.nn.Linear layers, so MokA does not know what to adapt: set MokaConfig(target_modules=...)."
        )
    usual = found.issuperset(PROJECTIONS) and all("q_proj" in names for names in blocks)
    names = PROJECTIONS if usual else sorted(found)
    where = "|".join(re.escape(name) for name in lists)
    return rf"(?:{where})\.\d+\.(?!.*(?:{'|'.join(MIXTURE)}))(?:.+\.)?(?:{'|'.join(names)})"


def _linear_names(block: nn.Module) -> set[str]:
    """Return what a block's linear layers are called, without those that are never adapted by default."""
    names = {
        name.rpartition(".")[2]
        for name, module in block.named_modules()
        if isinstance(module, LINEAR) and not any(part in name for part in MIXTURE)
    }
    return names - SKIPPED


def _refuse_outside(config: MokaConfig, model: nn.Module, language_model: str) -> None:
    """Refuse targets in the encoders, whose inputs are not the token sequence that modality ids speak of."""
    runs = running_model(model)
    head = runs.get_output_embeddings() if isinstance(runs, PreTrainedModel) else None
    # The blocks, where they are known: some models keep their encoders within the language model.
    inside = tuple(f"{name}." for name in _blocks(model, language_model) or filter(None, [language_model])) or ""
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
