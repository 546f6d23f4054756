"""A flat YAML file of settings, each checked against the type its dataclass field declares."""

import re
import types
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from moka.training.arguments import ConfigError
from moka.training.spelling import nearest


class _Loader(yaml.SafeLoader):
    """YAML whose scalars mean what they look like: 1e-4 is a number, `no` is a word, and a key appears once."""


# PyYAML reads YAML 1.1, in which 1e-4 is a string and `eval_strategy: no` is False.
_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ConfigError(
                f"{node.start_mark.name}, line {key_node.start_mark.line + 1}: key {key!r} is given twice"
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def read_yaml(path: str | Path, hints: dict[str, Any]) -> dict[str, Any]:
    """Reads a flat YAML mapping and checks each key and value.

    Args:
        path: The file.
        hints: Allowed key -> its type.

    Raises:
        ConfigError: No such file, bad YAML, an unknown or repeated key, a value of the wrong type.
    """
    if not Path(path).is_file():
        raise ConfigError(f"config: no such file: {path}")
    with open(path, encoding="utf-8") as stream:
        try:
            content = yaml.load(stream, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got a {type(content).__name__}")
    values = {}
    for key, value in content.items():
        if key not in hints:
            raise ConfigError(f"{path}: unknown key {key!r}{nearest(str(key), hints)}")
        try:
            values[key] = convert(value, hints[key])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {key}: expected {_describe(hints[key])}, got {value!r}") from error
    return values


def convert(value: Any, hint: Any) -> Any:
    """Converts a YAML value to a field's type without guessing: 3 is a float, 3.5 is no int, 7 is no string.

    Args:
        value: What YAML read.
        hint: The field's type: a plain type, Literal, Enum, list, dict, or a union of these.

    Raises:
        TypeError or ValueError: The value is not of that type.
    """
    origin = get_origin(hint) or hint
    if origin is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(hint))
    if origin is Literal:
        if value not in get_args(hint):
            raise ValueError(f"not one of {get_args(hint)}")
        return value
    if origin is bool and isinstance(value, str):
        return _convert_word(value)
    if origin in (int, float):
        return _convert_number(value, origin)
    if issubclass(origin, Enum):
        return origin(value)
    if not isinstance(value, origin):
        raise TypeError(f"not a {origin.__name__}")
    if origin is list:
        (entry,) = get_args(hint) or (Any,)
        return [convert(item, entry) for item in value]
    return value


def _convert_word(value: str) -> bool:
    if value.lower() not in ("yes", "on", "true", "no", "off", "false"):
        raise ValueError("not true or false")
    return value.lower() in ("yes", "on", "true")


def _convert_number(value: Any, kind: type) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("not a number")
    if isinstance(value, str):
        return kind(value)
    # An int stays an int where a float is allowed: save_steps 10 means every 10 steps, also when printed.
    if isinstance(value, float) and kind is int:
        raise TypeError("not a whole number")
    return value


def _convert_union(value: Any, members: Iterable[Any]) -> Any:
    members = list(members)
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        # `SchedulerType | str` stands for one of the enum's values, not for any text.
        members = [member for member in members if member is not str]
    for member in members:
        if type(value) is member:
            return value
    for member in members:
        try:
            return convert(value, member)
        except (TypeError, ValueError):
            continue
    raise TypeError("none of the alternatives")


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(repr(choice.value) for choice in hint)
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a mapping"}
    return names.get(hint, str(hint))
