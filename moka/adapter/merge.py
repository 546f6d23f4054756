"""What can be merged: the update of text tokens. Media keep theirs, as the difference to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from moka.adapter.layer import MokaLinear
from moka.adapter.router import running_model

RESIDUAL = "moka"
_WEIGHTS = "adapter_model.safetensors"


class TextMerge:
    """The part of `MokaModel` that merges: W' = W + s B A_text, and media tokens add s B (z - A_text x).

    A decoding step then costs what the base model's does, and the prefill gives what it gave before.
    """

    model: nn.Module
    peft_config: Any
    active_adapters: list[str]

    def merge_text(self, adapter_names: list[str] | None = None) -> None:
        """Merge what text tokens get into the base weights, for faster generation; nothing else changes.

        Args:
            adapter_names (`list[str]`, *optional*): Adapters to merge; the active ones by default.

        Raises:
            ValueError: If there is no such adapter, or a layer's weights are quantised, shared with the input
                embeddings, or would not stay finite. Nothing is merged then.
        """
        names = self.active_adapters if adapter_names is None else adapter_names
        unknown = [name for name in names if name not in self.peft_config]
        if unknown:
            raise ValueError(f"There is no adapter {unknown[0]!r}; there are {list(self.peft_config)}.")
        self._refuse_unmergeable()
        done: list[tuple[MokaLinear, str]] = []
        try:
            for _, layer in self._layers():
                for name in names:
                    if name not in layer.text_merged:
                        layer.merge_text(name)
                        done.append((layer, name))
        except ValueError:
            for layer, name in done:
                layer.unmerge_text(name)
            raise

    def unmerge_text(self) -> None:
        """Undo `merge_text` for all adapters, up to rounding: to train on, or to hand the base model back."""
        for _, layer in self._layers():
            for name in sorted(layer.text_merged):
                layer.unmerge_text(name)

    def export(self, folder: str | Path) -> None:
        """Write the model with the text part merged in, and beside it, in the folder `moka`, what media still need.

        Load it with `base = AutoModel....from_pretrained(folder)`, which by itself answers texts as the adapted model
        does, and `PeftModel.from_pretrained(base, folder + "/moka")` for media.

        Args:
            folder (`str` or `Path`): Where to; made when missing. This model stays as it is.

        Raises:
            ValueError: If not exactly one adapter is active, the model is none of transformers', or its weights cannot
                be merged.
        """
        if len(self.active_adapters) != 1:
            raise ValueError(
                f"export() writes one adapter, but {self.active_adapters} are active: set_adapter() first."
            )
        if not isinstance(self.model, PreTrainedModel):
            raise ValueError(f"export() needs a transformers model, this is a {type(self.model).__name__}.")
        self._refuse_unmergeable()
        (name,) = self.active_adapters
        layers, base, residual = dict(self._layers()), {}, {}
        for key, value in self.model.state_dict().items():
            parent, _, rest = key.rpartition(".base_layer.")
            if ".moka_A." in key or ".moka_B." in key:
                if f".{name}." in key:
                    residual["base_model.model." + key.replace(f".{name}.", ".")] = value.contiguous()
            elif parent in layers:
                base[f"{parent}.{rest}"] = layers[parent].text_merged_weight(name) if rest == "weight" else value
            elif f".modules_to_save.{name}." in key:
                base[key.replace(f".modules_to_save.{name}.", ".")] = value
            elif ".modules_to_save." not in key:
                base.setdefault(key.replace(".original_module.", "."), value)
        folder = Path(folder)
        self.model.save_pretrained(folder, state_dict=base)
        config = copy.copy(self.peft_config[name])
        config.text_merged, config.inference_mode, config.modules_to_save = True, True, None
        config.base_model_name_or_path = str(folder)
        config.save_pretrained(str(folder / RESIDUAL))
        save_file(residual, folder / RESIDUAL / _WEIGHTS, metadata={"format": "pt"})

    def _layers(self) -> Iterator[tuple[str, MokaLinear]]:
        for path, module in self.model.named_modules():
            if isinstance(module, MokaLinear):
                yield path, module

    def _refuse_unmergeable(self) -> None:
        model: Any = running_model(self.model)
        embeddings = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
        for path, layer in self._layers():
            weight: Any = layer.base_layer.weight
            if type(layer.base_layer) is not nn.Linear or not weight.is_floating_point():
                raise ValueError(
                    f"{path} is a {type(layer.base_layer).__name__} of {weight.dtype}: an update cannot be merged "
                    "into quantised weights. Load the base model unquantised, or leave the adapter unmerged."
                )
            if embeddings is not None and weight is embeddings.weight:
                raise ValueError(
                    f"{path} shares its weights with the input embeddings, which a merge would change, too. Leave it "
                    "out of target_modules, or the adapter unmerged."
                )
