"""The elements of the sparse constants that the dense ones hold: the hints of a certificate.

See `onnxprune.certify`, which relies on none of it and compares the constants bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxprune.algebra.axes import factors
from onnxprune.algebra.kept_axes import kept_indices
from onnxprune.analysis.groups.channels import Channels, Indices

Elements = Mapping[str, Indices]
"""The place in the file's own constant of each element of one that was put in another order, by name."""
Hints = dict[str, dict[int, np.ndarray[Any, np.dtype[np.int64]]]]


def in_order(channels: Channels) -> Elements:
    """Return where the elements of all constants stood before they were put in the order of the slots."""
    names = {p.tensor for g in channels.groups for p in g.places} if channels.arrangements else set()
    constants = channels.model.constants
    places = {n: _numbered(tuple(constants[n].dims)) for n in names if n in constants}
    return {name: channels.put_in_order(name, numbers) for name, numbers in places.items()}


def kept_elements(
    channels: Channels, removed: Mapping[str, Sequence[int]], moved: Elements | None = None
) -> Hints:
    """Return the index arrays of all constants that are cut or were put in another order, and of padded axes.

    Args:
        channels: The groups that were cut; names are those of the dense model.
        removed: Removed channels by group name.
        moved: Elements that were put in another order before, if any were.

    Returns:
        By name and axis, arrays that broadcast against the tensor; axes that are whole are left out.
    """
    channels = channels.arranged_where(removed)
    kept, moved = channels.kept(removed), moved or {}
    cuts = channels.cuts(kept)
    found: Hints = {}
    for name in {*cuts, *(n for n in moved if n in channels.model.constants)}:
        shape = tuple(channels.model.constants[name].dims)
        if name not in moved and not channels.is_rearranged(name):
            found[name] = _straight(cuts[name], shape)
            continue
        places = channels.put_in_order(name, _numbered(shape))
        for axis, indices in cuts.get(name, {}).items():
            places = np.take(places, indices, axis)
        if name in moved and moved[name].shape == shape:
            places = moved[name].ravel()[places]
        found[name] = _lists(places, shape)
    for node in channels.typing.nodes:
        if node.op_type == "Pad":
            dims = channels.typing.axes.get(node.output[0], ())
            cut = {a: d for a, d in enumerate(dims) if any(f in kept for f in factors(d))}
            found[node.output[0]] = {a: _along(kept_indices(d, kept), a, len(dims)) for a, d in cut.items()}
    return {name: lists for name, lists in found.items() if lists}


def _along(indices: Indices, axis: int, rank: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(indices, np.int64).reshape([-1 if a == axis else 1 for a in range(rank)])


def _numbered(shape: tuple[int, ...]) -> Indices:
    return np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)


def _straight(
    cut: Mapping[int, Indices], shape: tuple[int, ...]
) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the index arrays of a tensor whose elements are in the order of the file."""
    whole = {axis for axis, kept in cut.items() if np.array_equal(kept, np.arange(shape[axis]))}
    return {axis: _along(cut[axis], axis, len(shape)) for axis in sorted(cut) if axis not in whole}


def _lists(places: Indices, shape: tuple[int, ...]) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return one index array for each axis, of the elements at some positions of a flat tensor."""
    found = {}
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        listed = places // inner % shape[axis]  # np.unravel_index leaves the end of large arrays unwritten
        line = np.arange(shape[axis]).reshape([-1 if b == axis else 1 for b in range(len(shape))])
        if listed.shape[axis] == shape[axis] and (listed == line).all():
            continue
        for other in range(listed.ndim):
            if other != axis and listed.shape[other] > 1 and (listed == listed.take([0], other)).all():
                listed = listed.take([0], other)
        found[axis] = np.asarray(listed, np.int64)
    return found
