"""How large the generated world is."""

import hashlib
import json
from dataclasses import asdict, dataclass

VERSION = 2


@dataclass(frozen=True)
class WorldSettings:
    """Sizes of everything that is built; the same settings give the same files and weights.

    Args:
        seed: seeds clips, questions and weights.
        train_scenes, val_scenes, test_scenes: clips of each split; each gives up to nine questions.
        caption_scenes: of the training clips, how many are described for stage 1.
        encoder_scenes: separate clips that the vision and audio towers learn from.
        vision_steps, audio_steps: optimizer steps of the towers.
        encoder_width, encoder_layers, encoder_batch: size of both towers, frames or windows a step.
        encoder_rate: peak learning rate of both towers.
        language_steps: optimizer steps of a language model.
        language_width, language_layers, language_batch: size of a language model, scenes a step.
        language_rate: peak learning rate of a language model.
        questions_per_scene: questions about each scene of the language model's training text.
    """

    seed: int = 0
    train_scenes: int = 700
    val_scenes: int = 60
    test_scenes: int = 240
    caption_scenes: int = 500
    encoder_scenes: int = 300
    vision_steps: int = 500
    audio_steps: int = 600
    encoder_width: int = 64
    encoder_layers: int = 3
    encoder_batch: int = 64
    encoder_rate: float = 2e-3
    language_steps: int = 550
    language_width: int = 96
    language_layers: int = 3
    language_batch: int = 24
    language_rate: float = 3e-3
    questions_per_scene: int = 4

    @property
    def key(self) -> str:
        """Names the folder: version, seed and a digest of all sizes."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"tiny-v{VERSION}-seed{self.seed}-{digest}"


DEMO = WorldSettings()
MICRO = WorldSettings(
    train_scenes=4,
    val_scenes=2,
    test_scenes=2,
    caption_scenes=4,
    encoder_scenes=2,
    vision_steps=2,
    audio_steps=2,
    encoder_width=16,
    encoder_layers=2,
    encoder_batch=4,
    language_steps=2,
    language_width=16,
    language_layers=2,
    language_batch=2,
    questions_per_scene=2,
)
