"""What is seen and heard, in words: the targets of stage 1 and the language model's training text."""

from ..prompts import PromptTemplate
from .instruments import NAMES, POSITIONS
from .scenes import BAR_SECONDS, CLIP_SECONDS, Scene

# Short, because a tiny language model reads it thousands of times; configs/demo*.yaml say the same.
PROMPT = PromptTemplate(system="", video="video: {video}\n", audio="audio: {audio}\n", question="{question}")
VIDEO_QUESTION = "Please describe this video."
SOFT_SIGN, LOUD_SIGN = "♪", "♫"
AUDIO_QUESTION = "Please describe this audio."
SEEN_QUESTION = "Which instruments are seen?"
HEARD_QUESTION = "Which instruments are heard?"
# Words that are given, and what the scene says about them.
Facts = list[tuple[str, str]]


def describe_frame(scene: Scene) -> str:
    """What one frame shows, e.g. "left violin right drum outdoor"."""
    seen = [f"{position} {name}" for position, name in zip(POSITIONS, scene.seen, strict=True) if name]
    return " ".join([*seen, scene.place])


def describe_second(scene: Scene, second: int) -> str:
    """What one second sounds like, e.g. "♫violin ♪drum": a sound is another word than its instrument, loud or soft."""
    sounding = [sound for sound in scene.sounds if sound.start <= second < sound.end]
    return " ".join((LOUD_SIGN if sound.loud else SOFT_SIGN) + sound.name for sound in sounding) or "silence"


def describe_video(scene: Scene) -> str:
    """What the picture shows, as a sentence."""
    return describe_frame(scene) + "."


def describe_audio(scene: Scene) -> str:
    """What is heard, bar after bar."""
    return "; ".join(describe_second(scene, second) for second in range(0, CLIP_SECONDS, BAR_SECONDS)) + "."


def seen_facts(scene: Scene) -> Facts:
    """Of each kind of instrument, whether it is in the picture, and where first."""
    return [(name, " ".join(["yes", *scene.positions(name)[:1]]) if name in scene.seen else "no") for name in NAMES]


def heard_facts(scene: Scene) -> Facts:
    """Of each kind of instrument, whether it is in the sound, and how loud."""
    return [(name, "yes " + loudness(scene, name) if name in scene.heard else "no") for name in NAMES]


def loudness(scene: Scene, name: str) -> str:
    """How a kind of instrument sounds."""
    sound = scene.heard.get(name)
    return "silence" if sound is None else "loud" if sound.loud else "soft"
