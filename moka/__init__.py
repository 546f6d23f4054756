"""MokA: modality-aware fine-tuning of multimodal LLMs. Importing it registers the adapter with PEFT."""

from moka.adapter import MokaConfig, MokaModel, moka_delta

__version__ = "0.1.0"
__all__ = ["MokaConfig", "MokaModel", "moka_delta"]
