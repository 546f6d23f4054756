"""Training: arguments, the Trainer and the two stages."""

from moka.training.arguments import (
    AdapterArguments,
    Arguments,
    ConfigError,
    DataArguments,
    ModelArguments,
    MokaTrainingArguments,
)
from moka.training.config_file import parse_arguments
from moka.training.run import finetune, pretrain
from moka.training.trainer import MokaTrainer

__all__ = [
    "AdapterArguments",
    "Arguments",
    "ConfigError",
    "DataArguments",
    "ModelArguments",
    "MokaTrainer",
    "MokaTrainingArguments",
    "finetune",
    "parse_arguments",
    "pretrain",
]
