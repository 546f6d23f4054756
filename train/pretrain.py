"""Stage 1: trains the projectors on captions; encoders and language model stay frozen.

accelerate launch train/pretrain.py --config configs/demo_pretrain.yaml --output_dir out/projectors
"""

import sys

from moka.training import ConfigError, parse_arguments, pretrain


def main() -> None:
    """Reads the command line and trains; a setting that cannot be used is told in one line."""
    try:
        pretrain(parse_arguments(sys.argv[1:], adapter=False, description=__doc__))
    except (ConfigError, FileNotFoundError) as error:
        sys.exit(f"pretrain.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\npretrain.py: interrupted; --resume_from_checkpoint true goes on from the last checkpoint")


if __name__ == "__main__":
    main()
