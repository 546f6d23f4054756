"""Builds the generated world (clips, questions, tiny backbones) in the user's cache folder, unless it is there."""

import argparse
import time

from moka.data.tiny import DEMO_ARTEFACTS, WORLDS, build_world, world_folder


def main() -> None:
    """Builds with two processes: the language model in one, clips and encoders in the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="moka-tiny", choices=list(WORLDS), help="moka-micro is for tests")
    parser.add_argument("--qwen2", action="store_true", help="build the Qwen2 backbone as well")
    parser.add_argument("--workers", type=int, default=2, help="processes that build at a time")
    arguments = parser.parse_args()
    started = time.monotonic()
    artefacts = [*DEMO_ARTEFACTS, "qwen2"] if arguments.qwen2 else DEMO_ARTEFACTS
    folder = world_folder(arguments.world)
    build_world(WORLDS[arguments.world], folder, artefacts, workers=arguments.workers)
    print(f"{arguments.world} is in {folder} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
