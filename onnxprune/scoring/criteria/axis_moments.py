"""Second moments of the activations along the axis of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.axis_fibres import fibres_of
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry
from onnxprune.errors import DataError
from onnxprune.ir import Model
from onnxprune.runtime import Feeds, Session

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 1 << 16
"""Lines that are converted to float64 at a time."""


@dataclass
class SecondMoments:
    """Sums over samples of the lines along an axis of a tensor, apart for each outer element.

    Attributes:
        count: Number of lines summed up.
        total: Their sum, ``[outer, channels]``.
        products: The sum of their outer products, ``[outer, channels, channels]``.
    """

    count: int
    total: Array
    products: Array

    def add(self, lines: Array) -> None:
        """Take in lines, ``[outer, channels, lines]``."""
        for start in range(0, lines.shape[2], _CHUNK):
            piece = lines[:, :, start : start + _CHUNK].astype(np.float64)
            self.total += piece.sum(2)
            self.products += piece @ piece.transpose(0, 2, 1)
        self.count += lines.shape[2]

    def about(self, *, mean: bool) -> Array:
        """Return the mean product, about the mean or about zero."""
        products = self.products / max(self.count, 1)
        middle = self.total / max(self.count, 1)
        return products - middle[:, :, None] * middle[:, None, :] if mean else products


Seen = dict[tuple[str, str], SecondMoments]
"""Moments by the name of a group and that of a tensor."""


def observed(
    channels: Channels,
    pairs: Iterable[tuple[GroupSymmetry, str]],
    feeds: Iterable[Feeds],
    threads: int | None,
) -> Seen:
    """Run samples once and sum up the lines along some axes.

    Args:
        channels: The groups.
        pairs: Pairs of an axis and a tensor of the main graph that it lies on.
        feeds: The inputs of the network, batch by batch.
        threads: Threads of the session.

    Raises:
        DataError: There are no samples, or they make numbers that are not finite.
    """
    axes = {(axis.group.name, name): axis for axis, name in pairs}
    seen: Seen = {key: no_moments(axis) for key, axis in axes.items()}
    inputs = {i.name for i in channels.model.inputs}
    session = _tapped(channels.model, sorted({name for _, name in axes} - inputs), threads)
    for fed in feeds:
        made = {**fed, **session.run(fed)}
        for (group, name), axis in axes.items():
            dims = channels.typing.axes[name]
            where = next(k for k, d in enumerate(dims) if axis.group.factor in factors(d))
            fibres = fibres_of(channels, axis, name, where, made[name].shape)
            seen[group, name].add(fibres.taken(made[name]))
    for (_, name), moments in seen.items():
        if not moments.count or not np.isfinite(moments.products).all():
            raise DataError(
                f"'{name}' is not finite on these samples, or there are none",
                "are the samples scaled as the model expects them?",
            )
    return seen


def no_moments(axis: GroupSymmetry) -> SecondMoments:
    """Return the moments of no samples along an axis."""
    size, outer = axis.group.size, prod(o.count for o in axis.outer)
    return SecondMoments(0, np.zeros((outer, size)), np.zeros((outer, size, size)))


def _tapped(model: Model, names: Sequence[str], threads: int | None) -> Session:
    """Make a session of a network that returns some of its tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return Session(proto, threads=threads)
