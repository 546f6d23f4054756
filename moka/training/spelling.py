"""The nearest valid name for a mistyped one."""

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the most similar valid name, or the list of valid names when none is near.

    Args:
        name: The unknown name.
        valid: The names that exist.
    """
    names = sorted(valid)
    matches = difflib.get_close_matches(name.replace("-", "_"), names, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; valid names: {', '.join(names)}"
