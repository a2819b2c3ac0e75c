"""The tokens of a batch: their numbers, and a mask that leaves padding out.

A mask is an input ``[N, T]`` of zeros and ones whose name contains "mask" and not "pad": an attention mask, 1
for a token that counts. A "padding mask" has the opposite meaning in some libraries, and is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.runtime import Array
from onnxprune.runtime.batch_axes import Spec
from onnxprune.runtime.token_masks import is_mask

_IDS = "input_ids"
_NO_IDS = ("mask", "position", "type", "segment", "past", "cache", "length")
"""Parts of the names of integer inputs that hold no numbers of tokens."""


@dataclass(frozen=True)
class Tokens:
    """Token sequences that were fed to a model.

    Attributes:
        ids: Numbers of the tokens, ``[N, T]``; ``None`` where the model reads none.
        mask: 1 for tokens that count and 0 for padding, ``[N, T]``; ``None`` without such an input.
        name: The declared name of the axis of tokens, if it has one.
        outputs: The declared shapes of the outputs by name.
    """

    ids: Array | None = None
    mask: Array | None = None
    name: str | None = None
    outputs: Mapping[str, Sequence[int | str | None]] = field(default_factory=dict)

    def mask_of(self, output: str, shape: Sequence[int]) -> Array | None:
        """Return the mask for an output; ``None`` where its second axis does not count the tokens.

        An output of three axes or more counts them on an axis of that size. One of two axes, which may count
        classes, does so only where the file gives the axis the name that the mask's axis has.

        Args:
            output: The name of the output.
            shape: Its shape, samples first.
        """
        if self.mask is None or tuple(shape[:2]) != self.mask.shape:
            return None
        named = self.name is not None and self.name in self.outputs.get(output, ())
        return self.mask if len(shape) > 2 or named else None


def tokens_of(inputs: Mapping[str, Array], specs: Iterable[Spec], outputs: Iterable[Spec]) -> Tokens:
    """Find the token sequences among the inputs of a batch.

    Args:
        inputs: Inputs of the batch, samples first.
        specs: The declared inputs.
        outputs: The declared outputs.
    """
    tables = {name: array for name, array in inputs.items() if array.ndim == 2 and array.dtype.kind in "iubf"}
    mask = next((name for name, array in tables.items() if is_mask(name) and _binary(array)), None)
    ids = _ids(tables)
    if mask is None and ids is None:
        return Tokens()
    declared = {spec.name: spec.shape for spec in specs}
    shape = declared.get(mask or "", ())
    name = shape[-1] if shape and isinstance(shape[-1], str) else None
    return Tokens(
        ids=tables[ids] if ids else None,
        mask=tables[mask].astype(np.float64) if mask else None,
        name=name,
        outputs={spec.name: spec.shape for spec in outputs},
    )


def _binary(array: Array) -> bool:
    return bool(((array == 0) | (array == 1)).all() and (array != 0).any())


def _ids(tables: Mapping[str, Array]) -> str | None:
    """Return the only integer table that can hold numbers of tokens; ``input_ids`` before others."""
    if _IDS in tables and tables[_IDS].dtype.kind in "iu":
        return _IDS
    found = [
        n for n, a in tables.items() if a.dtype.kind in "iu" and not any(p in n.lower() for p in _NO_IDS)
    ]
    return found[0] if len(found) == 1 else None
