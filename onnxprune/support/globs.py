"""Names that users give: literally, or as a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase


def matching(pattern: str, names: Iterable[str]) -> set[str]:
    """Return the names that a pattern matches.

    A name that is written out matches itself alone. Otherwise the pattern is a glob; where it matches no
    name, its brackets are taken literally, for names such as ``Block[0]/Conv``.

    Args:
        pattern: A name or a glob.
        names: The names there are.
    """
    known = set(names)
    if pattern in known:
        return {pattern}
    found = {name for name in known if fnmatchcase(name, pattern)}
    literal = re.sub(r"\[", "[[]", pattern)
    return found or {name for name in known if fnmatchcase(name, literal)}
