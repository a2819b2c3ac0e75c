"""The hints that a verifier may be given: which elements of the sparse constants the dense ones hold.

A file of JSON: ``{"format": 1, "sparse": SHA-256, "dense": SHA-256, "kept": {tensor: {axis: indices}}}``, the
tensor being a constant of the dense model, or the result of a Pad. Indices are nested lists that broadcast
against the tensor. They are hints and no more: the elements they select are compared bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.certify.relations.element_bounds import Array

FORMAT = 1
_BLOCK = 1 << 20


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def to_json(kept: Mapping[str, Mapping[int, Array]], sparse: str, dense: str) -> str:
    """Return the content of a certificate.

    Args:
        kept: Index arrays by tensor and axis.
        sparse: Digest of the sparse file.
        dense: Digest of the dense file.
    """
    listed = {name: {str(a): m.tolist() for a, m in axes.items()} for name, axes in kept.items() if axes}
    return json.dumps({"format": FORMAT, "sparse": sparse, "dense": dense, "kept": listed}) + "\n"


def from_json(text: str) -> tuple[dict[str, dict[int, Array]], dict[str, Any]]:
    """Return the index arrays of a certificate, and the digests that it names.

    Raises:
        ValueError: It is no certificate of this format.
    """
    found = json.loads(text)
    if (
        not isinstance(found, dict)
        or found.get("format") != FORMAT
        or not isinstance(found.get("kept"), dict)
    ):
        raise ValueError("it is no certificate of format 1")
    kept: dict[str, dict[int, Array]] = {}
    for name, axes in found["kept"].items():
        kept[name] = {int(axis): np.asarray(listed, np.int64) for axis, listed in axes.items()}
        if any(axis < 0 or axis >= m.ndim for axis, m in kept[name].items()):
            raise ValueError(f"the certificate names axes that '{name}' does not have")
    return kept, {side: found.get(side) for side in ("sparse", "dense")}
