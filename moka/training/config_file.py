"""Reading a run's arguments: `--config file.yaml`, then `--key value` on top, checked as one."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn, get_type_hints

from transformers import HfArgumentParser

from moka.training.arguments import (
    PATH_KEYS,
    AdapterArguments,
    Arguments,
    ConfigError,
    DataArguments,
    ModelArguments,
    MokaTrainingArguments,
)
from moka.training.spelling import nearest
from moka.training.yaml_file import read_yaml


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}")


def parse_arguments(argv: Sequence[str], *, adapter: bool = True, description: str | None = None) -> Arguments:
    """Reads one run's arguments from a command line and the YAML file it names with `--config`.

    Args:
        argv: The command line without the program's name.
        adapter: Whether the stage has an adapter (stage 2) and so takes its keys.
        description: First line of `--help`.

    Raises:
        ConfigError: An unknown or missing key, a value of the wrong type, an undefined environment variable.
    """
    groups: list[Any] = [
        ModelArguments,
        DataArguments,
        *([AdapterArguments] if adapter else []),
        MokaTrainingArguments,
    ]
    hints = {name: hint for group in groups for name, hint in _field_types(group).items()}
    # The Trainer takes a bool or a folder, which HfArgumentParser cannot express in one argument.
    hints["resume_from_checkpoint"] = bool | str | None
    parser = _Parser(groups, description=description, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with any of the keys below; the command line wins.")
    required = [action.dest for action in parser._actions if action.required]
    for action in parser._actions:
        action.required = False  # the YAML file may have it

    given, unknown = parser.parse_known_args(list(argv))
    if unknown:
        _refuse_unknown(unknown, hints)
    file_values: dict[str, Any] = {}
    if given.config is not None:
        file_values = read_yaml(_expand(given.config, "config", "command line"), hints)
        parser.set_defaults(**file_values)
    values = vars(parser.parse_args(list(argv)))
    missing = [key for key in required if values[key] is None]
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)}; give each in the YAML file or as --{missing[0]} VALUE")
    for key in PATH_KEYS:
        if isinstance(values[key], str):
            source = given.config if values[key] == file_values.get(key) else "command line"
            values[key] = _expand(values[key], key, source)
    return _build(groups, values)


def _build(groups: list[Any], values: dict[str, Any]) -> Arguments:
    try:
        built = {group: group(**{name: values[name] for name in _field_types(group)}) for group in groups}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Arguments(
        model=built[ModelArguments],
        data=built[DataArguments],
        adapter=built.get(AdapterArguments),
        training=built[MokaTrainingArguments],
    )


def _field_types(group: Any) -> dict[str, Any]:
    hints = get_type_hints(group)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(group) if entry.init}


def _refuse_unknown(tokens: list[str], hints: dict[str, Any]) -> NoReturn:
    for token in tokens:
        if token.startswith("-"):
            name = token.lstrip("-").split("=")[0]
            raise ConfigError(f"command line: unknown option {token!r}{nearest(name, [*hints, 'config'])}")
    raise ConfigError(f"command line: {tokens[0]!r} belongs to no option; options are written as --key value")


def _expand(path: str, key: str, source: str) -> str:
    expanded = os.path.expandvars(os.path.expanduser(path))
    undefined = re.search(r"\$\{?\w+", expanded)
    if undefined:
        raise ConfigError(f"{source}: {key}: {path!r} uses {undefined[0]}, which is not set in the environment")
    return expanded
