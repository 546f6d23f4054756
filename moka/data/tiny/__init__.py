"""The generated audio-visual world: clips, questions and tiny backbones, without a download."""

from .build import DEMO_ARTEFACTS, WORLDS, build_world, resolve, world_folder
from .encoders import WINDOWING
from .settings import DEMO, MICRO, WorldSettings

__all__ = [
    "DEMO",
    "DEMO_ARTEFACTS",
    "MICRO",
    "WINDOWING",
    "WORLDS",
    "WorldSettings",
    "build_world",
    "resolve",
    "world_folder",
]
