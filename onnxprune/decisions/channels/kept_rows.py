"""Numbers of rows after the removal of some: the kept ones, and models that take the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxprune.algebra.axes import factors
from onnxprune.algebra.kept_axes import kept_indices
from onnxprune.analysis.groups.channels import Channels, Indices
from onnxprune.ir import Model, noted_vocabulary, renumbered


def kept_rows(channels: Channels, removed: Mapping[str, Sequence[int]]) -> Indices | None:
    """Return the numbers of the rows that remain of a vocabulary, ascending; ``None`` where all do."""
    rows, kept = channels.typing.rows, channels.kept(removed)
    if rows is None or not any(factor in kept for factor in factors(rows)):
        return None
    return kept_indices(rows, kept)


def id_map(sparse: Model, rows: Sequence[int]) -> dict[str, Any]:
    """Return the row of the whole vocabulary that each row of a dense model is, ready for JSON.

    Args:
        sparse: The model with all rows, and the note of its vocabulary.
        rows: Numbers of the rows that remain, ascending.
    """
    vocabulary = noted_vocabulary(sparse)
    return {
        "inputs": list(vocabulary.inputs) if vocabulary else [],
        "rows_before": vocabulary.rows if vocabulary else 0,
        "ids": list(rows),
    }


def with_common_numbers(sparse: Model, dense: Model, kept: Indices) -> tuple[Model, Model]:
    """Return both models with inputs that take any number of the whole vocabulary, and mean the same row.

    A number of a removed row is replaced by that of one that remains.

    Args:
        sparse: The model with all rows.
        dense: The one that has only those that remain.
        kept: Their numbers, ascending.
    """
    vocabulary = noted_vocabulary(sparse)
    assert vocabulary is not None
    numbers = np.arange(vocabulary.rows)
    places = numbers % len(kept)
    places[kept] = np.arange(len(kept))
    return (
        renumbered(sparse, vocabulary.inputs, kept[places]),
        renumbered(dense, vocabulary.inputs, places),
    )
