"""The basis in which an axis is best cut: its covariance and the metric of its readers are diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.groups.axis_fibres import fibres_of
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry
from onnxprune.ops.symmetry import Symmetry, Vector
from onnxprune.scoring.criteria.axis_moments import SecondMoments, no_moments

Array = np.ndarray[Any, np.dtype[Any]]

MOST_CONDITION = 1e3
"""The largest condition number of a basis: rounding errors of float32 stay below 1e-4."""
_RIDGE = 1e-4


def basis(
    channels: Channels, axis: GroupSymmetry, kind: Symmetry, seen: Mapping[tuple[str, str], SecondMoments]
) -> Array:
    """Return the basis of an axis, ``[outer, channels, channels]``, the best channels first.

    With ``C`` the covariance of the values along the axis and ``M`` the second moments of the weights that
    read it, ``T = Uᵀ M^½`` of ``U S Vᵀ = svd(M^½ C^½)`` makes both diagonal (balanced truncation; B. C.
    Moore, "Principal component analysis in linear systems", 1981). An orthogonal axis gets the orthogonal
    basis of the same leading subspaces. Of a pairing, ``M`` are the second moments of the other side; the
    common part of all keys has no effect behind a softmax, so their moments are taken about the mean.

    Args:
        channels: The groups.
        axis: One of them.
        kind: The maps that are allowed, orthogonal or general linear.
        seen: Second moments on samples; without them, those of the weights that make the axis are used.
    """
    covariance, metric = _both(channels, axis, seen)
    maps = [
        _oriented(c, m, orthogonal=kind is Symmetry.ORTHOGONAL, shared=bool(axis.pairs))
        for c, m in zip(covariance, metric, strict=True)
    ]
    return np.stack(maps).astype(stored_as(channels, axis))


def stored_as(channels: Channels, axis: GroupSymmetry) -> np.dtype[Any]:
    """Return the type of a map's numbers: 64-bit floats where a weight has these, else 32-bit floats."""
    types = {channels.model.constants[v.constant].data_type for v in axis.vectors}
    return np.dtype(np.float64 if onnx.TensorProto.DOUBLE in types else np.float32)


def _both(
    channels: Channels, axis: GroupSymmetry, seen: Mapping[tuple[str, str], SecondMoments]
) -> tuple[Array, Array]:
    """Return the covariance and the metric of an axis."""
    covariance, metric = (np.zeros(no_moments(axis).products.shape) for _ in range(2))
    reads = [v for v in axis.vectors if v.kind == "read" and axis.sides[v.flow] > 0]
    for vector in reads:
        carried = _carried(channels, axis, vector.flow, seen, mean=True)
        weights = _gram(channels, axis, vector)
        power = float(np.einsum("hij,hij->", weights, carried))
        metric += weights / (power or 1.0)
        covariance += carried / len(reads)
    for pair in axis.pairs:
        one, two = pair.first, pair.second
        if axis.sides[one] < 0:
            one, two = two, one
        covariance += _carried(channels, axis, one, seen, mean=one == pair.second)
        metric += _carried(channels, axis, two, seen, mean=two == pair.second)
    return covariance, metric


def _carried(
    channels: Channels,
    axis: GroupSymmetry,
    flow: str,
    seen: Mapping[tuple[str, str], SecondMoments],
    *,
    mean: bool,
) -> Array:
    """Return the second moments of the values along an axis."""
    found = seen.get((axis.group.name, flow))
    if found is not None:
        return found.about(mean=mean)
    side = axis.sides[flow]
    makers = [v for v in axis.vectors if v.kind == "write" and axis.sides[v.flow] == side]
    makers = makers or [v for v in axis.vectors if v.kind == "shift" and axis.sides[v.flow] == side]
    return sum((_gram(channels, axis, v) for v in makers), np.zeros(no_moments(axis).products.shape))


def _gram(channels: Channels, axis: GroupSymmetry, vector: Vector) -> Array:
    """Return the products of the weights along an axis, summed over all else."""
    values = channels.model.array(vector.constant).astype(np.float64)
    fibres = fibres_of(channels, axis, vector.constant, vector.axis, values.shape)
    lines = fibres.taken(values)
    return np.asarray(lines @ lines.transpose(0, 2, 1))


def _oriented(covariance: Array, metric: Array, *, orthogonal: bool, shared: bool) -> Array:
    """Return the basis for one outer element; `shared` lets both sides of a pairing fall alike."""
    ridge = _RIDGE
    while True:
        carried, metric_root = _root(covariance, ridge), _root(metric, ridge)
        left, strengths, _ = np.linalg.svd(metric_root @ carried)
        basis = left.T @ metric_root
        if orthogonal:
            frame, triangle = np.linalg.qr(basis.T)
            return np.asarray(frame.T * np.where(np.diag(triangle) < 0, -1.0, 1.0)[:, None])
        norms = np.linalg.norm(basis, axis=1)
        if shared:
            norms = np.sqrt(np.maximum(strengths, 1e-6 * strengths[0]))
        basis = basis / norms[:, None]
        if np.linalg.cond(basis) <= MOST_CONDITION or ridge > 1:
            return np.asarray(basis)
        ridge *= 10


def _root(matrix: Array, ridge: float) -> Array:
    """Return the square root of a symmetric matrix, a little of the identity added."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values = np.maximum(values, 0)
    values = np.sqrt(values + ridge * (float(values.mean()) or 1.0))
    return np.asarray((vectors * values) @ vectors.T)
