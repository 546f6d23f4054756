"""What is seen and heard, in words: the targets of stage 1 and the language model's training text."""

from ..prompts import PromptTemplate
from .instruments import NAMES, POSITIONS
from .scenes import BAR_SECONDS, CLIP_SECONDS, Scene

# Short, because a tiny language model reads it thousands of times; configs/demo*.yaml say the same.
PROMPT = PromptTemplate(system="", video="video: {video}\n", audio="audio: {audio}\n", question="{question}")
VIDEO_QUESTION = "Please describe this video."
SOUND_SIGN = "♪"
AUDIO_QUESTION = "Please describe this audio."
SEEN_QUESTION = "Which instruments are seen?"
HEARD_QUESTION = "Which instruments are heard?"


def describe_frame(scene: Scene) -> str:
    """What one frame shows, e.g. "left violin right drum outdoor"."""
    seen = [f"{position} {name}" for position, name in zip(POSITIONS, scene.seen, strict=True) if name]
    return " ".join([*seen, scene.place])


def describe_second(scene: Scene, second: int) -> str:
    """What one second sounds like, e.g. "♪violin loud ♪drum"; a sound is another word than its instrument."""
    words = []
    for sound in scene.sounds:
        if sound.start <= second < sound.end:
            words += [SOUND_SIGN + sound.name] + ["loud"] * sound.loud
    return " ".join(words) or "silence"


def describe_video(scene: Scene) -> str:
    """What the picture shows, as a sentence."""
    return describe_frame(scene) + "."


def describe_audio(scene: Scene) -> str:
    """What is heard, bar after bar."""
    return "; ".join(describe_second(scene, second) for second in range(0, CLIP_SECONDS, BAR_SECONDS)) + "."


def list_seen(scene: Scene) -> str:
    """The kinds of instruments in the picture, each once, in a fixed order."""
    return " ".join(name for name in NAMES if name in scene.seen) + "."


def list_heard(scene: Scene) -> str:
    """The kinds of instruments in the sound, each once, in a fixed order."""
    return " ".join(name for name in NAMES if name in scene.heard) + "."
