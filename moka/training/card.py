"""The model card: what was trained on what, and how to load it."""

from pathlib import Path
from typing import Any

import yaml

from moka.data.locate import GENERATED
from moka.training.arguments import Arguments

_CITATION = """@inproceedings{wei2025moka,
  title     = {MokA: Multimodal Low-Rank Adaptation for MLLMs},
  author    = {Yake Wei and Yu Miao and Dongzhan Zhou and Di Hu},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  note      = {arXiv:2506.05191}
}"""

_HOW_TO_LOAD = """## How to load

```python
import moka  # registers the adapter with PEFT
from moka.omni import load_adapter

model, processor = load_adapter("path/to/this/folder")
```

Other copies of the base models can be named: `load_adapter(folder, language_model=...)`."""

_HYPER_PARAMETERS = [
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "seed",
]


def model_card(
    arguments: Arguments, *, log_history: list[dict[str, Any]], num_questions: int, num_skipped: int, world_size: int
) -> str:
    """Writes the README.md of an output folder.

    Args:
        arguments: The run's arguments.
        log_history: The Trainer's log events.
        num_questions: Training rows used.
        num_skipped: Training rows left out because their media could not be read.
        world_size: Processes the run used.
    """
    model, adapter = arguments.model, arguments.adapter
    with_adapter = adapter is not None and adapter.adapter == "moka"
    backbones = [
        ("Language model", model.language_model),
        ("Vision tower", model.vision_tower),
        ("Audio tower", model.audio_tower),
    ]
    media = [
        name
        for name, tower in (("image", model.vision_tower), ("video", model.vision_tower), ("audio", model.audio_tower))
        if tower
    ]
    values = arguments.to_dict()
    parts = [
        f"---\n{yaml.safe_dump(_metadata(backbones, with_adapter), sort_keys=False)}---",
        f"# {Path(arguments.training.output_dir).resolve().name}",
        (
            "A MokA adapter with its modality projectors: each modality has its own low-rank A, media tokens attend "
            "to the question in the low-rank space, and one B is shared."
            if with_adapter
            else "Modality projectors that feed frozen encoders into a frozen language model."
        )
        + " The base models are not in this folder; they are loaded by name.",
        "## Base models\n\n" + _table(("part", "name"), [(part, f"`{name}`") for part, name in backbones if name]),
        f"Modalities: text, {', '.join(media)}.",
        _HOW_TO_LOAD,
    ]
    if adapter is not None and with_adapter:
        keys = ["r", "alpha", "dropout", "cross_weight", "use_rslora", "scale_before_attention"]
        parts.append("## Adapter\n\n" + _table(("key", "value"), [(key, f"{getattr(adapter, key)}") for key in keys]))
    parts += [
        f"## Data\n\nTrained on {num_questions} rows of `{Path(arguments.data.questions).name}`"
        + (f"; {num_skipped} rows were left out because their media could not be read." if num_skipped else "."),
        "## Metrics\n\n" + _table(("metric", "value"), _metrics(log_history)),
        "## Hyper-parameters\n\n"
        + _table(
            ("key", "value"), [("processes", str(world_size)), *((key, str(values[key])) for key in _HYPER_PARAMETERS)]
        )
        + "\n\nAll of them: `training_config.yaml`; every log event: `metrics.jsonl`; prompt and windowing: "
        "`data_config.json`.",
        "## Licence\n\nThese weights were trained on top of the base models and on the data named above; their "
        "licences apply to any use.",
        f"## Citation\n\n```bibtex\n{_CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(backbones: list[tuple[str, str | None]], with_adapter: bool) -> dict[str, Any]:
    # The hub takes ids, not folders.
    hub_ids = [name for _, name in backbones if name and not Path(name).exists() and not name.startswith(GENERATED)]
    metadata: dict[str, Any] = {"library_name": "peft" if with_adapter else "transformers"}
    if hub_ids:
        metadata["base_model"] = hub_ids
    metadata["tags"] = ["moka", "multimodal", "audio-visual", *(["adapter"] if with_adapter else ["projectors"])]
    return metadata


def _metrics(log_history: list[dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for key, title in (("loss", "training loss (last logged)"), ("eval_loss", "evaluation loss (last)")):
        events = [event for event in log_history if key in event]
        if events:
            rows.append((title, f"{events[-1][key]:.4f}"))
    if log_history:
        rows.append(("optimizer steps", str(log_history[-1]["step"])))
        rows.append(("epochs", f"{log_history[-1]['epoch']:.2f}"))
    return rows


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [header, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)
