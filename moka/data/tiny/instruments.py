"""What an instrument looks and sounds like in the generated world."""

from dataclasses import dataclass

POSITIONS = ("left", "middle", "right")
PLACES = ("indoor", "outdoor")


@dataclass(frozen=True)
class Instrument:
    """One kind of instrument, told by shape and colour in the picture and by pitch and timbre in the sound.

    Args:
        name: a name from MUSIC-AVQA's answer vocabulary.
        shape: one of the shapes that `render.draw_shape` knows.
        colour: RGB, 0..255.
        pitch: fundamental frequency in Hz.
        harmonics: relative amplitude of the first, second, ... harmonic.
        breath: share of noise in the sound, 0..1.
    """

    name: str
    shape: str
    colour: tuple[int, int, int]
    pitch: float
    harmonics: tuple[float, ...]
    breath: float = 0.0


INSTRUMENTS = (
    Instrument("violin", "triangle", (220, 60, 40), 660.0, (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2)),
    Instrument("cello", "disc", (150, 70, 200), 165.0, (1.0, 0.7, 0.8, 0.4, 0.5, 0.3, 0.3, 0.2)),
    Instrument("piano", "square", (30, 30, 40), 330.0, (1.0, 0.3, 0.1)),
    Instrument("drum", "ring", (240, 200, 40), 90.0, (1.0, 0.0, 0.3), breath=0.75),
    Instrument("flute", "bar", (60, 200, 220), 1200.0, (1.0, 0.1), breath=0.15),
    Instrument("trumpet", "cross", (240, 140, 20), 470.0, (0.5, 0.8, 1.0, 1.0, 0.8, 0.6, 0.5, 0.4)),
)

NAMES = tuple(instrument.name for instrument in INSTRUMENTS)
BY_NAME = {instrument.name: instrument for instrument in INSTRUMENTS}
