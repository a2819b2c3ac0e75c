"""Constant propagation: values that do not depend on the input.

A filter of zeros leaves a channel that is its bias alone; batch normalisation, activations, pools and
sums make other constants of that. The rules describe how constants propagate (``constant=``), how zeros do
(``zero=``), and which nodes are linear in an operand; here the table is walked once, in order of execution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.axes import Dim, Factor, Mirror, Sum, factors, resolve
from onnxprune.algebra.kept_axes import is_counted
from onnxprune.analysis.groups.channel_values import is_followed
from onnxprune.analysis.groups.weight_values import mask_values
from onnxprune.errors import UNEXPECTED
from onnxprune.ir import attributes
from onnxprune.ops.axes import Typing
from onnxprune.ops.axes.constant_rules import Array, Numbers, aligned
from onnxprune.ops.axes.table import objection_to
from onnxprune.ops.axes.variables import View, Views
from onnxprune.ops.spec import spec_of
from onnxprune.ops.views import LinearView

Mask = np.ndarray[Any, np.dtype[np.bool_]]
LARGEST_RANK = 64
"""Axes of the largest array that numpy has; tensors with more have no known values."""


@dataclass
class Constants:
    """Constant values by tensor: an array that broadcasts against it, ``NaN`` where unknown.

    Attributes:
        typing: The network and its axes.
        known: Known values of the tensors that nodes make; tensors without any are left out.
    """

    typing: Typing
    known: dict[str, Array] = field(default_factory=dict)
    _matrices: dict[int, Matrices | None] = field(default_factory=dict, repr=False)

    def of(self, name: str) -> Array | None:
        """Return the known values of a tensor; ``None`` where there are none."""
        if name in self.known:
            return self.known[name]
        tensor = self.typing.model.constants.get(name)
        if tensor is None or tensor.data_type == onnx.TensorProto.STRING:
            return None
        if name in self.typing.unread:
            return None  # the real value of such an integer is unknown
        return mask_values(self.typing, name).astype(np.float64)

    def along(self, name: str, axis: int) -> Array:
        """Return the value known everywhere at each place of an axis, as a vector with ``NaN``."""
        known, size = self.of(name), self.typing.axes[name][axis].count
        if known is None:
            return np.full(size, np.nan)
        lines = np.moveaxis(known, axis, 0).reshape(known.shape[axis], -1)
        alike = np.all(lines == lines[:, :1], axis=1)
        return np.broadcast_to(np.where(alike, lines[:, 0], np.nan), (size,))

    def matrices(self, index: int) -> Matrices | None:
        """Return the weights of a node that is linear in an operand; ``None`` where they are not known."""
        if index not in self._matrices:
            self._matrices[index] = self._find_matrices(index)
        return self._matrices[index]

    def is_fixed(self, name: str) -> bool:
        """Return whether a tensor is known as a whole: a weight, computed or not."""
        return name in self.typing.model.constants or not np.isnan(self.known.get(name, np.nan)).any()

    def zero_channels(
        self,
        name: str,
        factor: Factor,
        remaining: Mapping[int, Mask] | None = None,
        axes: Sequence[int] | None = None,
    ) -> Mask | None:
        """Return at which channels of a factor a tensor is zero; ``None`` where it does not have that axis.

        Args:
            name: The tensor.
            factor: The factor.
            remaining: The places that count, by axis; all of them by default.
            axes: The axes along which it has to be; by default all that have the factor.
        """
        known = self.of(name) if self._axes_of(name, factor) else None
        for axis, places in (remaining or {}).items():
            if known is not None and known.shape[axis] > 1 and not places.all():
                dropped = aligned(~places, axis, known.ndim)
                known = np.where(dropped, 0.0, known)
        return self._channels(name, factor, None if known is None else known == 0, axes)

    def constant_channels(self, name: str, factor: Factor) -> Mask | None:
        """Return at which channels of a factor a tensor is known; ``None`` where it does not have it."""
        if name in self.typing.model.constants:
            return np.ones(factor.count, bool) if self._axes_of(name, factor) else None
        known = self.known.get(name)
        return self._channels(name, factor, None if known is None else ~np.isnan(known))

    def dead_filters(self, node: onnx.NodeProto, factor: Factor) -> Mask:
        """Return the channels at which all weights of a node are zero along some axis, vectors aside."""
        dead, found = np.ones(factor.count, bool), False
        weights = [i for i in node.input if i in self.typing.weight_uses and i in self.typing.model.constants]
        for name in weights:
            known, axes = self.of(name), self._axes_of(name, factor)
            if known is not None and axes and sum(size > 1 for size in known.shape) > 1:
                found = True
                dead &= np.any([self._along(name, factor, known == 0, axis) for axis in axes], axis=0)
        return dead & found

    def factors_of(self, name: str) -> set[Factor]:
        """Return the factors on the axes of a tensor."""
        return {f for d in self.typing.axes.get(name, ()) for f in factors(d)}

    def _axes_of(self, name: str, factor: Factor) -> list[int]:
        return [k for k, d in enumerate(self.typing.axes.get(name, ())) if factor in factors(d)]

    def _channels(
        self, name: str, factor: Factor, holds: Mask | None, axes: Sequence[int] | None = None
    ) -> Mask | None:
        """Return at which channels a flag holds at all places, on all axes or some of them."""
        found = [k for k in self._axes_of(name, factor) if axes is None or k in axes]
        if not found:
            return None
        if holds is None:
            return np.zeros(factor.count, bool)
        everywhere: Mask = np.all([self._along(name, factor, holds, axis) for axis in found], axis=0)
        return everywhere

    def _along(self, name: str, factor: Factor, holds: Mask, axis: int) -> Mask:
        """Return at which channels a flag holds at all places along one axis."""
        dim = self.typing.axes[name][axis]
        lines = np.moveaxis(holds, axis, 0).reshape(holds.shape[axis], -1)
        if not is_counted(dim):  # channels merged with an open axis: known only where all are alike
            return np.full(factor.count, len(lines) == 1 and bool(lines.all()))
        fails = np.broadcast_to(~np.all(lines, axis=1), (dim.count,))
        return channels_where(~fails, channels_on(dim, factor), factor)

    def _find_matrices(self, index: int) -> Matrices | None:
        node, axes = self.typing.nodes[index], self.typing.axes_of
        for linear in self.typing.linear.get(index, ()):
            weights = self.of(node.input[linear.weights]) if linear.is_plain else None
            if weights is None or np.isnan(weights).any():
                continue
            dims = axes(node.input[linear.weights])
            summed, made = (
                axes(node.input[linear.data])[linear.axis],
                axes(node.output[0])[linear.result_axis],
            )
            if all(map(is_counted, (*dims, summed, made))):
                found = Matrices.of(linear, np.broadcast_to(weights, [dim.count for dim in dims]))
                return found if found.fits(made.count, summed.count) else None  # the branch is not taken
        return None


@dataclass(frozen=True)
class Matrices:
    """The weights of a linear node, kernels summed up.

    Attributes:
        linear: View of the node as linear, given by its rule.
        values: ``[groups, outputs, inputs]``, the sum over the places of a kernel.
        reads: Likewise, whether any of those is not zero.
    """

    linear: LinearView
    values: Array
    reads: Mask

    @classmethod
    def of(cls, linear: LinearView, weights: Array) -> Matrices:
        """Bring weights into that form."""
        whole = linear.by_group(weights)
        return cls(linear, linear.alpha * whole.sum(-1), np.any(whole != 0, axis=-1))

    def fits(self, outputs: int, inputs: int) -> bool:
        """Return whether all groups together have so many outputs and inputs."""
        groups, made, read = self.reads.shape
        return (groups * made, groups * read) == (outputs, inputs)

    def product(self, data: Array) -> Array:
        """Return ``weights · data`` for one vector of data, groups major."""
        made: Array = np.einsum("goi,gi->go", self.values, data.reshape(len(self.values), -1))
        return made.ravel()


def channels_on(dim: Dim, factor: Factor) -> list[Array]:
    """Return the channel of each element of an axis, −1 where it has none.

    A factor that is nested with itself gives an element several channels: there is a list of them for each.
    """
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return [np.arange(dim.count)] if dim is factor else []
    if isinstance(dim, Mirror):
        return [channels[::-1] for channels in channels_on(dim.of, factor)]
    parts = [channels_on(part, factor) for part in dim.parts]
    if isinstance(dim, Sum):
        none = [np.full(part.count, -1) for part in dim.parts]
        ways = range(max(map(len, parts)))
        return [
            np.concatenate([p[way] if way < len(p) else n for p, n in zip(parts, none, strict=True)])
            for way in ways
        ]
    found: list[Array] = []
    for k, part in enumerate(parts):
        minor = math.prod(p.count for p in dim.parts[k + 1 :])
        major = math.prod(p.count for p in dim.parts[:k])
        found += [np.tile(np.repeat(channels, minor), major) for channels in part]
    return found


def channels_where(holds: Mask, ways: Sequence[Array], factor: Factor) -> Mask:
    """Return the channels at all of whose places on an axis a flag holds."""
    found = np.ones(factor.count, bool)
    for channels in ways:
        fails = channels[~holds]
        found[fails[fails >= 0]] = False
    return found


def find_constants(typing: Typing) -> Constants:
    """Walk a network and find the values that are the same for every input."""
    found, views = Constants(typing), Views(typing)
    for index, node in enumerate(typing.nodes):
        if node.op_type == "Constant" or any(o in typing.model.constants for o in node.output):
            continue
        if any(len(typing.shapes.sizes.get(name, ())) > LARGEST_RANK for name in (*node.input, *node.output)):
            continue
        for name, known in zip(node.output, _checked_results(found, index, node), strict=False):
            fitting = _fitting(typing, name, known)
            if fitting is not None:
                found.known[name] = fitting
        if not _is_plain_product(found, index):
            _add_zeros(found, index, node, views)
    return found


def _checked_results(found: Constants, index: int, node: onnx.NodeProto) -> Sequence[Array | None]:
    """Return the known results of a node, none where its operands do not fit.

    Raises:
        DefectError: The rule of the operator fails on a node that the runtime takes.
    """
    try:
        return _results(found, index, node)
    except UNEXPECTED as error:
        objection_to(found.typing, node, "the rule of its known results", error)
        return []


def _results(found: Constants, index: int, node: onnx.NodeProto) -> Sequence[Array | None]:
    spec = spec_of(node)
    if spec.axes is None:
        return []
    matrices = found.matrices(index)
    if matrices is not None:
        return [_multiplied(found, node, matrices)] if matrices.linear.final else []
    operands = tuple(found.of(i) if i else None for i in node.input)
    if not any(o is not None for o in operands):
        return []
    return spec.constant(numbers_of(found.typing, node, operands))


def numbers_of(typing: Typing, node: onnx.NodeProto, operands: tuple[Array | None, ...]) -> Numbers:
    """Return a node as the constant rules read it, given the known values of its operands."""
    shapes, axes = typing.shapes, typing.axes
    inputs, first = list(node.input), axes.get(node.output[0], ())
    kinds = [shapes.types.get(i) for i in inputs]
    return Numbers(
        node=node,
        attributes=attributes(node),
        opsets={o.domain: o.version for o in typing.model.proto.opset_import},
        operands=operands,
        settled=tuple(shapes.values.get(i) for i in inputs),
        shapes=tuple(shapes.sizes.get(i) for i in inputs),
        results=tuple(shapes.sizes.get(o) for o in node.output),
        kinds=tuple(helper.tensor_dtype_to_np_dtype(k) if k else None for k in kinds),
        passing=tuple(k < len(first) and first[k] is d for k, d in enumerate(axes.get(inputs[0], ()))),
        means=inputs[0] in typing.means,
    )


def _fitting(typing: Typing, name: str, known: Array | None) -> Array | None:
    """Return a rule's values of a result, with all its axes; ``None`` where there are none."""
    shape = typing.shapes.sizes.get(name)
    if known is None or shape is None or not name or known.ndim > len(shape) or np.isnan(known).all():
        return None
    known = known.reshape((1,) * (len(shape) - known.ndim) + known.shape)
    return known if all(k in (1, s) for k, s in zip(known.shape, shape, strict=True)) else None


def _is_plain_product(found: Constants, index: int) -> bool:
    matrices = found.matrices(index)
    return matrices is not None and matrices.linear.final


def _multiplied(found: Constants, node: onnx.NodeProto, matrices: Matrices) -> Array | None:
    """Return the channels that are sums of constants alone."""
    linear, rank = matrices.linear, len(found.typing.shapes.sizes.get(node.output[0], ()))
    data = found.along(node.input[linear.data], linear.axis)
    if data.size != matrices.reads.shape[0] * matrices.reads.shape[-1]:
        return None  # no runtime takes it
    unknown = np.isnan(data) | ((data != 0) & bool(linear.uneven))
    varies = np.any(matrices.reads & unknown.reshape(len(matrices.reads), 1, -1), axis=2).ravel()
    result = matrices.product(np.where(unknown, 0, data)) + _bias(found, node, linear)
    return aligned(np.where(varies, np.nan, result), linear.result_axis, rank) if rank else None


def _bias(found: Constants, node: onnx.NodeProto, linear: LinearView) -> Array | float:
    if linear.bias is None or linear.bias >= len(node.input) or not node.input[linear.bias]:
        return 0.0
    known = found.of(node.input[linear.bias])
    if known is None or known.size != max(known.shape, default=1):
        return math.nan
    if known.ndim and known.shape[-1] != known.size:  # along another axis than that of the results
        return math.nan
    return linear.beta * known.ravel()


def _add_zeros(found: Constants, index: int, node: onnx.NodeProto, views: Views) -> None:
    """Apply the rule of zeros: each channel of a result is zero if certain operands are."""
    spec, typing = spec_of(node), found.typing
    if spec.axes is None or index in typing.never_zero:
        return
    for number, name in enumerate(node.output):
        if not is_followed(typing, node, number):
            continue
        for factor in {f for d in typing.axes.get(name, ()) for f in factors(d) if f.free}:
            if any(found.factors_of(i) >= {factor} and found.of(i) is not None for i in node.input if i):
                seen: dict[int | None, Mask] = {}
                for view in views.of(index, number, factor):
                    operands = _zeros(found, node, factor, view)
                    zero = _flags(spec.zero, operands, factor.count)
                    seen[view.axis] = seen.get(view.axis, True) & zero
                for axis, zero in seen.items():
                    _set_zero(found, name, factor, zero, axis)


def _zeros(found: Constants, node: onnx.NodeProto, factor: Factor, view: View) -> list[Mask | None]:
    """Return at which channels each operand is zero along one index; ``None`` where it does not have that."""
    nowhere, everywhere = np.zeros(factor.count, bool), np.ones(factor.count, bool)
    zeros: list[Mask | None] = []
    for name, axes in zip(node.input, view.operands, strict=True):
        if not name:
            zeros.append(everywhere)
        else:
            zeros.append(nowhere if axes is None else found.zero_channels(name, factor, axes=axes))
    return zeros


def _flags(zero: Any, operands: Sequence[Mask | None], size: int) -> Mask:
    """Apply the rule once for each combination of operands that are zero."""
    given = [z for z in operands if z is not None] or [np.zeros(size, bool)]
    combinations, which = np.unique(np.stack(given), axis=1, return_inverse=True)
    answers = []
    for column in combinations.T:
        flags = iter(column.tolist())
        answers.append(zero([None if z is None else next(flags) for z in operands]))
    return np.asarray(answers, bool)[which.reshape(-1)[:size]]


def _set_zero(found: Constants, name: str, factor: Factor, zero: Mask, axis: int | None) -> None:
    """Note that a tensor is zero at channels of one axis, or of all that have the factor."""
    shape = found.typing.shapes.sizes.get(name)
    if shape is None or not zero.any():
        return
    dims = found.typing.axes[name]
    for place in [k for k, dim in enumerate(dims) if factor in factors(dim)] if axis is None else [axis]:
        if not isinstance(shape[place], int):  # merged with an open axis: the places cannot be listed
            continue
        channels, *others = channels_on(dims[place], factor)
        if not others:  # it may be zero along one of them alone
            gone = np.where(channels >= 0, zero[channels], False)
            known = found.known.get(name, np.full((1,) * len(shape), np.nan))
            found.known[name] = np.where(aligned(gone, place, len(shape)), 0.0, known)
