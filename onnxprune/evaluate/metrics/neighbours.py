"""Retrieval: the nearest neighbours of each sample by two sets of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.metrics.metric import BatchOutputs
from onnxprune.evaluate.metrics.paired_outputs import paired
from onnxprune.runtime import Array

_BLOCK = 1 << 22
"""Entries of the table of similarities that are in memory at a time."""


class Embeddings(NamedTuple):
    """Unit vectors of some samples.

    Attributes:
        before: Those of the baseline, ``[N, D]``.
        after: Those of the model, ``[N, E]``.
    """

    before: Array
    after: Array


def embeddings(name: str, answer: BatchOutputs) -> Embeddings:
    """Return one unit vector a sample for the baseline and for the model.

    A table ``[N, D]`` is taken as it is; tokens ``[N, T, D]`` are averaged, by the mask where there is one.

    Args:
        name: The output to judge; empty for the first one of numbers with two or three axes.
        answer: Outputs.

    Raises:
        DataError: There is no such output.
    """
    pairs = paired(answer)
    chosen = name or next((p.name for p in pairs if p.after.ndim in (2, 3) and p.after.dtype.kind == "f"), "")
    found = next((p for p in pairs if p.name == chosen), None)
    if found is None or found.after.ndim not in (2, 3):
        raise DataError(
            "retrieval needs an output of embeddings, [N, D] or [N, T, D], and the model has none",
            f"name it with retrieval@k=10,output=NAME: {', '.join(answer.outputs)}",
        )
    mask = answer.tokens.mask_of(found.name, found.after.shape)
    return Embeddings(
        *(_units(_pooled(np.asarray(x, np.float64), mask)) for x in (found.before, found.after))
    )


def overlap(k: int, parts: Sequence[Embeddings]) -> float:
    """Return the share of the k nearest neighbours by the baseline that the model's embeddings find again.

    Neighbours have the largest cosines; the sample itself is none of them. Of equal cosines the lower number
    comes first, so that embeddings without differences find nothing by chance.

    Args:
        k: Number of neighbours.
        parts: The embeddings of all batches.

    Returns:
        The mean share over all samples, 0 to 1.

    Raises:
        DataError: There are not more than k samples.
    """
    before, after = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    count = len(before)
    if count <= k:
        raise DataError(
            f"retrieval compares {k} neighbours of each sample, and there are {count} samples",
            f"give more than {k} samples, or fewer neighbours: retrieval@{max(1, count // 10)}",
        )
    rows, hits = max(1, _BLOCK // count), 0
    for start in range(0, count, rows):
        one, other = (_nearest(x, start, min(start + rows, count), k) for x in (before, after))
        hits += int((one[:, :, np.newaxis] == other[:, np.newaxis]).sum())
    return hits / (k * count)


def _nearest(vectors: Array, start: int, stop: int, k: int) -> Array:
    """Return the numbers of the k nearest neighbours of some samples, ``[stop − start, k]``."""
    cosines = vectors[start:stop] @ vectors.T
    cosines[np.isnan(cosines)] = -np.inf
    cosines[np.arange(stop - start), np.arange(start, stop)] = -np.inf
    return np.argsort(-np.round(cosines, 12), axis=1, kind="stable")[:, :k]


def _pooled(values: Array, mask: Array | None) -> Array:
    if values.ndim == 2:
        return values
    if mask is None:
        return np.asarray(values.mean(1))
    return np.asarray((values * mask[..., np.newaxis]).sum(1) / np.maximum(mask.sum(1), 1)[:, np.newaxis])


def _units(values: Array) -> Array:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(norms == 0, 1, norms))
