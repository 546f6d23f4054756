"""The hooks on the base model that compute the routing of a forward and hand it to the adapted layers."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from moka.adapter.modality_ids import TEXT, check_placeholders, modality_ids_from_tokens, placeholder_codes
from moka.adapter.prompt import Prompt
from moka.adapter.replay import replay_under_checkpointing
from moka.adapter.routing import TEXT_ONLY, Routing, build_routing

if TYPE_CHECKING:
    from moka.adapter.config import MokaConfig

Routings = Mapping[str, Routing]


class Router:
    """Compute each forward's routing once and serve it to every adapted layer of one base model.

    It is attached to the module that `running_model` names.

    A pre-hook on the base model reads `mm_token_type_ids` (or its alias `modality_ids`, which wins), `question_mask`,
    `attention_mask` and `labels`; a post-hook forgets the routing again, so that a layer can never use a stale one.
    `generate` is wrapped to remember what of the prompt is media and question while tokens are added. State is kept a
    thread, and replayed when activation checkpointing runs a layer again (see `replay_under_checkpointing`).
    """

    def __init__(self) -> None:
        self._state = threading.local()

    # A thread's state is neither copied nor pickled with the model.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._state = threading.local()

    def attach(self, model: Any) -> None:
        """Install the hooks on a base model."""
        model.moka_router = self
        model.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        model.register_forward_hook(self._after_forward, always_call=True)
        if isinstance(model, GenerationMixin):
            model.__dict__["generate"] = functools.partial(self._generate, model)
        # Some models, InstructBLIP for one, generate by the `generate` of the language model in them, past their own
        # forward.
        part: nn.Module
        for part in model.modules():
            if part is not model and isinstance(part, GenerationMixin):
                part.register_forward_pre_hook(self._before_part, with_kwargs=True)
                part.register_forward_hook(self._after_part, always_call=True)

    def detach(self, model: nn.Module) -> None:
        """Remove everything that `attach` installed."""
        # Found by their owner, not by handles: those of a copied model would be the original's.
        for module in model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in hooks.items() if getattr(hook, "__self__", None) is self]:
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
                    module._forward_hooks_always_called.pop(key, None)
        model.__dict__.pop("generate", None)
        model.__dict__.pop("moka_router", None)

    @property
    def current(self) -> Routings | None:
        """The routings of the forward that this thread is in, by adapter name."""
        return getattr(self._state, "routings", None)

    @contextmanager
    def use(self, routings: Routings | None) -> Iterator[None]:
        """Make `routings` current for a while, in this thread."""
        previous = self.current
        self._state.routings = routings
        try:
            yield
        finally:
            self._state.routings = previous

    def routing_for(self, adapter_name: str, x: Tensor) -> Routing:
        """Return the current routing of an adapter for a layer's input.

        Args:
            adapter_name (`str`): The adapter.
            x (`torch.Tensor` of shape `(batch, length, in_features)`): The layer's input.

        Raises:
            RuntimeError: If no forward of the base model is running.
            ValueError: If the input is not the token sequence that the routing is for.
        """
        routings = self.current
        if routings is None:
            raise RuntimeError(
                "A MokA layer ran outside a forward of its base model, so the modality of its tokens is not known: "
                "call the model itself (not a sub-module, nor model.forward), and use transformers' activation "
                "checkpointing (model.gradient_checkpointing_enable())."
            )
        routing = routings[adapter_name]
        if routing.slots is not None and x.shape[:-1] != routing.slots.shape:
            raise ValueError(
                f"A MokA layer got an input of shape {tuple(x.shape)}, but the modality ids have shape "
                f"{tuple(routing.slots.shape)}. Adapt only layers that see the language model's token sequence: leave "
                "MokaConfig.target_modules at its default, or exclude this layer."
            )
        return routing

    def _before_forward(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = dict(kwargs)
        modality_ids, question_mask = kwargs.pop("modality_ids", None), kwargs.pop("question_mask", None)
        parameters = inspect.signature(model.forward).parameters
        inputs = dict(zip(parameters, args, strict=False)) | kwargs
        if modality_ids is None:
            modality_ids = inputs.get("mm_token_type_ids")
        if "mm_token_type_ids" not in parameters:
            kwargs.pop("mm_token_type_ids", None)
        configs = _active_configs(model)
        if configs:
            replay_under_checkpointing(model, self)
            self._state.routings = self._route(model, inputs, modality_ids, question_mask, configs)
        return args, kwargs

    def _after_forward(self, model: nn.Module, args: Any, output: Any) -> None:
        self._state.routings = None

    def _before_part(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Route by the prompt of the running `generate` when a part runs on its own."""
        if self.current is not None or getattr(self._state, "prompt", None) is None:
            return
        configs = _active_configs(part)
        if configs:
            inputs = dict(zip(inspect.signature(part.forward).parameters, args, strict=False)) | kwargs
            self._state.routings = self._route(part, inputs, None, None, configs)
            self._state.part = part

    def _after_part(self, part: nn.Module, args: Any, output: Any) -> None:
        if getattr(self._state, "part", None) is part:
            self._state.routings = self._state.part = None

    def _route(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modality_ids: Tensor | None,
        question_mask: Tensor | None,
        configs: Mapping[str, MokaConfig],
    ) -> Routings:
        shape = _sequence_shape(inputs)
        prompt: Prompt | None = getattr(self._state, "prompt", None)
        if prompt is not None:
            chunk = prompt.chunk(
                shape, inputs.get("past_key_values"), attends=any(c.cross_weight for c in configs.values())
            )
            if chunk is None:
                return dict.fromkeys(configs, TEXT_ONLY)
            modality_ids, question_mask = chunk
        elif modality_ids is None:
            modality_ids = _derive(inputs, model)
        _check_shape("mm_token_type_ids / modality_ids", modality_ids, shape)
        if question_mask is None:
            question_mask = _default_question(modality_ids, inputs.get("labels"), training=model.training)
        else:
            _check_shape("question_mask", question_mask, shape)
            question_mask = question_mask.bool()
        valid = _valid_tokens(inputs.get("attention_mask"), shape)
        return {name: build_routing(modality_ids, valid, question_mask, config) for name, config in configs.items()}

    def _generate(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the base model's `generate`, remembering the prompt's modalities and question."""
        modality_ids, question_mask = kwargs.pop("modality_ids", None), kwargs.pop("question_mask", None)
        inputs = {"input_ids": kwargs.get("inputs", args[0] if args else None)} | kwargs
        if modality_ids is None:
            modality_ids = kwargs.get("mm_token_type_ids")
        if "mm_token_type_ids" not in inspect.signature(model.forward).parameters:
            kwargs.pop("mm_token_type_ids", None)
        prompt = None
        if inputs.get("input_ids") is not None or inputs.get("inputs_embeds") is not None:
            shape = _sequence_shape(inputs)
            if modality_ids is None:
                modality_ids = _derive(inputs, model)
            if question_mask is None:
                question_mask = modality_ids == TEXT
            _check_shape("mm_token_type_ids / modality_ids", modality_ids, shape)
            _check_shape("question_mask", question_mask, shape)
            prompt = Prompt(modality_ids, question_mask.bool())
        previous = getattr(self._state, "prompt", None)
        self._state.prompt = prompt
        try:
            return type(model).generate(model, *args, **kwargs)
        finally:
            self._state.prompt = previous


def running_model(model: nn.Module) -> nn.Module:
    """Return the module whose forward runs the language model: `model`, or the sub-model that it drives.

    A model may be no more than a conductor, as Qwen2.5-Omni: it has no forward, and its `generate` calls that of its
    parts. The first part that generates is then the one that reads the prompt, and the hooks belong there.

    Args:
        model (`nn.Module`): The base model.
    """
    if type(model).forward is not nn.Module.forward:
        return model
    return next((part for part in model.modules() if part is not model and isinstance(part, GenerationMixin)), model)


def _active_configs(model: nn.Module) -> dict[str, MokaConfig]:
    """Return the configs of the adapters that the next forward uses (none if adapters are disabled)."""
    from moka.adapter.layer import MokaLayer  # the layer module needs this one

    configs: dict[str, MokaConfig] = {}
    for layer in model.modules():
        if isinstance(layer, MokaLayer) and not layer.disable_adapters:
            held: Any = layer.moka_config
            configs.update({name: held[name] for name in layer.active_adapters if name in held})
    return configs


def _sequence_shape(inputs: Mapping[str, Any]) -> torch.Size:
    if inputs.get("input_ids") is not None:
        return inputs["input_ids"].shape
    if inputs.get("inputs_embeds") is not None:
        return inputs["inputs_embeds"].shape[:2]
    raise ValueError("MokA needs `input_ids` or `inputs_embeds` to know the token sequence; got neither.")


def _derive(inputs: Mapping[str, Any], model: nn.Module) -> Tensor:
    if inputs.get("input_ids") is None:
        raise ValueError(
            "Only `inputs_embeds` was passed, which does not tell media from text: pass `mm_token_type_ids` (or "
            "`modality_ids`) of shape (batch, length) with 0 text, 1 image, 2 video, 3 audio."
        )
    check_placeholders(inputs, model.config)
    if not placeholder_codes(model.config):
        warnings.warn(
            f"{type(model.config).__name__} names no placeholder tokens and no modality_ids were passed, so MokA "
            "takes every token for text.",
            stacklevel=2,
        )
    return modality_ids_from_tokens(inputs["input_ids"], model.config)


def _default_question(modality_ids: Tensor, labels: Tensor | None, *, training: bool) -> Tensor | None:
    """Take as the question what is not to be predicted; answer tokens as keys would leak the label."""
    if labels is not None:
        _check_shape("labels", labels, modality_ids.shape)
        return (modality_ids == TEXT) & (labels == -100)
    return None if training else modality_ids == TEXT


def _valid_tokens(attention_mask: Any, shape: torch.Size) -> Tensor | None:
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return None  # 4-d masks and flash-attention metadata do not say which tokens are padding
    if attention_mask.shape[0] != shape[0] or attention_mask.shape[1] < shape[1]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, too small for an input of {tuple(shape)}."
        )
    return attention_mask[:, -shape[1] :].bool()


def _check_shape(name: str, value: Tensor, shape: torch.Size) -> None:
    if value.shape != shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but the input has {tuple(shape)} tokens: give one value a token."
        )
