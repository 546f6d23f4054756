"""Whether the weights of a file are those of a model."""

from collections.abc import Mapping

from torch import Tensor


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], called: Mapping[str, str] | None = None) -> str:
    """Describes which weights do not fit, by name; empty if all do.

    Args:
        own: The model's weights.
        given: The file's, by the model's names.
        called: The model's names -> the file's own, for the message.
    """
    called = called or {}
    problems = {
        "missing": own.keys() - given.keys(),
        "unknown": given.keys() - own.keys(),
        "of another shape": {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape},
    }
    lists = {kind: ", ".join(sorted(called.get(name, name) for name in names)) for kind, names in problems.items()}
    return "; ".join(f"{kind}: {names}" for kind, names in lists.items() if names)
