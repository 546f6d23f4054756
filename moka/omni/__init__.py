"""An audio-visual-text LLM assembled from pretrained parts; importing it registers it with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from moka.omni.assemble import assemble
from moka.omni.beats import BeatsConfig, BeatsModel
from moka.omni.checkpoints import load_adapter, load_projectors, save_projectors
from moka.omni.configuration import MokaOmniConfig, MokaProjectorConfig
from moka.omni.fbank import BeatsFeatureExtractor
from moka.omni.modeling import MokaOmniForConditionalGeneration, MokaOmniModel
from moka.omni.processing import MokaOmniProcessor
from moka.omni.projector import MokaProjector

AutoConfig.register(MokaOmniConfig.model_type, MokaOmniConfig)
AutoModel.register(MokaOmniConfig, MokaOmniModel)
AutoModelForCausalLM.register(MokaOmniConfig, MokaOmniForConditionalGeneration)
AutoModelForMultimodalLM.register(MokaOmniConfig, MokaOmniForConditionalGeneration)
AutoProcessor.register(MokaOmniConfig, MokaOmniProcessor)

AutoConfig.register(BeatsConfig.model_type, BeatsConfig)
AutoModel.register(BeatsConfig, BeatsModel)
AutoFeatureExtractor.register(BeatsConfig, BeatsFeatureExtractor)

__all__ = [
    "BeatsConfig",
    "BeatsFeatureExtractor",
    "BeatsModel",
    "MokaOmniConfig",
    "MokaOmniForConditionalGeneration",
    "MokaOmniModel",
    "MokaOmniProcessor",
    "MokaProjector",
    "MokaProjectorConfig",
    "assemble",
    "load_adapter",
    "load_projectors",
    "save_projectors",
]
