"""Sparsity patterns within weights: N of every M neighbours, or a share of all elements, and their note.

A pattern removes single elements: no shape changes, and the zeros stay in the dense file. The note in a
file's metadata names the weights that follow the pattern; the mask itself is the zeros of those weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.decisions.note_form import NoteForm
from onnxprune.errors import UsageError
from onnxprune.support.json_forms import COUNT, TEXT

PATTERN_KEY = "onnxprune.pattern"
FORMAT = 1
UNSTRUCTURED = "unstructured"
_FORM = {"format": COUNT, "pattern": TEXT, "weights": [TEXT]}
_NOTE = NoteForm("the note on the sparsity pattern", _FORM, FORMAT, "run `sparsify` on the model again")
_LARGEST_BLOCK = 1024

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Pattern:
    """A number of elements that stay among neighbours, or a share of all elements that goes.

    Attributes:
        kept: N: the most elements of a block that are not zero.
        block: M: how many neighbours along the inputs make a block; 0 for a whole weight or row.
        share: The fraction of the elements that is zero, where there are no blocks.
    """

    kept: int = 0
    block: int = 0
    share: float = 0.0

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Read a pattern: ``2:4``, or ``unstructured:0.5``.

        Raises:
            UsageError: It is neither.
        """
        name, _, amount = text.partition(":")
        if name == UNSTRUCTURED:
            try:
                share = float(amount)
            except ValueError:
                share = 0.0
            if 0 < share < 1:
                return cls(share=share)
        elif re.fullmatch(r"\d{1,4}:\d{1,4}", text):
            kept, block = int(name), int(amount)
            if 0 < kept < block <= _LARGEST_BLOCK:
                return cls(kept, block)
        raise UsageError(
            f"'{text}' is no sparsity pattern",
            f"give N:M such as 2:4 (N of M neighbours stay, M at most {_LARGEST_BLOCK}),"
            f" or {UNSTRUCTURED}:0.5 for a fraction of all elements",
        )

    def __str__(self) -> str:
        """Return the pattern as `of` reads it."""
        return f"{self.kept}:{self.block}" if self.block else f"{UNSTRUCTURED}:{self.share:g}"

    @property
    def sparsity(self) -> float:
        """The fraction of the elements that is zero."""
        return 1 - self.kept / self.block if self.block else self.share

    def stay(self, length: int) -> int:
        """Return the number of elements that stay in a block, or for a share in a row, of some length."""
        return self.kept if self.block else max(0, length - math.ceil(self.share * length - 1e-9))

    def largest(self, scores: Array) -> Array:
        """Return which elements stay in each row: those with the largest scores, of equal ones the first.

        Args:
            scores: ``[blocks, length]``.
        """
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.stay(scores.shape[1])]
        mask = np.zeros(scores.shape, bool)
        np.put_along_axis(mask, order, True, axis=1)
        return mask

    def holds(self, rows: Array) -> Array:
        """Return which blocks of a weight follow the pattern, ``[blocks]``.

        Args:
            rows: The elements with the inputs last, ``[rows, inputs]``, whole blocks.
        """
        if not self.block:
            return np.asarray([np.count_nonzero(rows) <= self.stay(rows.size)])
        blocks = rows.reshape(-1, self.block)
        return np.asarray(np.count_nonzero(blocks, axis=1) <= self.kept)


@dataclass(frozen=True)
class PatternNote:
    """The pattern of a model, and the weights that follow it.

    Attributes:
        pattern: The pattern.
        weights: Names of the constants.
    """

    pattern: Pattern
    weights: tuple[str, ...]

    def to_json(self) -> str:
        """Return the note as one line of JSON."""
        content = {"format": FORMAT, "pattern": str(self.pattern), "weights": list(self.weights)}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> PatternNote:
        """Read a note back.

        Raises:
            PlanError: It is damaged, or of a format this version does not read.
        """
        return _NOTE.read(text, lambda c: cls(Pattern.of(c["pattern"]), tuple(c["weights"])))

    @classmethod
    def stored(cls, metadata: Mapping[str, str]) -> PatternNote | None:
        """Return the note among a model's metadata, ``None`` where there is none."""
        text = metadata.get(PATTERN_KEY)
        return None if text is None else cls.from_json(text)

    def only(self, names: Sequence[str]) -> PatternNote:
        """Return the note on those of its weights that have one of some names."""
        known = set(names)
        return PatternNote(self.pattern, tuple(name for name in self.weights if name in known))
