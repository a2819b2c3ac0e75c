"""Names of inputs that mask tokens."""

from __future__ import annotations


def is_mask(name: str) -> bool:
    """Return whether the name of an input is that of an attention mask: 1 for a token that counts.

    A "padding mask" has the opposite meaning in some libraries, and is none.
    """
    return "mask" in name.lower() and "pad" not in name.lower()
