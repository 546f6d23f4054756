"""Stage 2: fine-tunes an audio-visual-text model with MokA.

accelerate launch train/finetune.py --config configs/demo.yaml --output_dir out --learning_rate 2e-4
"""

import sys

from moka.training import ConfigError, finetune, parse_arguments


def main() -> None:
    """Reads the command line and trains; a setting that cannot be used is told in one line."""
    try:
        finetune(parse_arguments(sys.argv[1:], description=__doc__))
    except (ConfigError, FileNotFoundError) as error:
        sys.exit(f"finetune.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nfinetune.py: interrupted; --resume_from_checkpoint true goes on from the last checkpoint")


if __name__ == "__main__":
    main()
