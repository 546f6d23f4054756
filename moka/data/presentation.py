"""How questions and media are shown to a model, which is kept beside its weights."""

import dataclasses
import json
from pathlib import Path

from moka.data.media import Windowing
from moka.data.prompts import PromptTemplate

DATA_CONFIG = "data_config.json"


@dataclasses.dataclass(frozen=True)
class Presentation:
    """What evaluation has to repeat of training.

    Args:
        prompt: The wording.
        windowing: Frames and audio windows of a clip.
    """

    prompt: PromptTemplate
    windowing: Windowing

    def save(self, folder: str | Path) -> None:
        """Writes data_config.json into a folder."""
        (Path(folder) / DATA_CONFIG).write_text(
            json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, file: str | Path) -> "Presentation":
        """Reads such a file.

        Raises:
            FileNotFoundError: No such file.
            ValueError: The file is not of that form.
        """
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.keys() != {"prompt", "windowing"}:
                raise ValueError(f"the keys are {sorted(content)}, expected prompt and windowing")
            return cls(PromptTemplate(**content["prompt"]), Windowing(**content["windowing"]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: {error}") from error
