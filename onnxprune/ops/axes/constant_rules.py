"""Constant propagation rules of operators.

The known values of a tensor are an array that broadcasts against it, ``NaN`` where unknown: ``[1, C, 1,
1]`` for a picture whose channels are uniform, each of its own value. The functions here stand in the table
beside the rules (``constant=``); all but the formulas run the operator itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxprune.algebra.sizes.algebra import Extent, exact_quotient
from onnxprune.analysis.shapes.node_evaluation import evaluate
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.runtime import Session

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Shape: TypeAlias = "tuple[Extent, ...]"
LARGEST = 1 << 23
"""Elements up to which an array is written out."""


@dataclass(frozen=True)
class Numbers:
    """One node, as seen by the known values of its operands.

    Attributes:
        node: The node.
        attributes: Its attributes as Python values.
        opsets: Versions of the operator domains.
        operands: Known values of each operand, in float64; ``None`` where none are known, or it is left out.
        settled: The whole value of each operand that does not depend on the input; ``None`` for others.
        shapes: The shape of each operand; ``None`` where it is left out or not known.
        results: The shape of each result, likewise.
        kinds: The element type of each operand.
        passing: Flags, one an axis of the first operand, true if the first result has the same axis there.
        means: True if the first operand sums to one along its last axis.
    """

    node: onnx.NodeProto
    attributes: Mapping[str, Any]
    opsets: Mapping[str, int]
    operands: tuple[Array | None, ...]
    settled: tuple[Array | None, ...]
    shapes: tuple[Shape | None, ...]
    results: tuple[Shape | None, ...]
    kinds: tuple[np.dtype[Any] | None, ...]
    passing: tuple[bool, ...]
    means: bool = False

    @property
    def opset(self) -> int:
        """The version of the standard domain."""
        return self.opsets.get("", 1)

    def known(self, operand: int) -> Array | None:
        """Return the known values of an operand."""
        return self.operands[operand] if operand < len(self.operands) else None

    def vector(self, operand: int, axis: int, rank: int) -> Array | float:
        """Return a parameter of one axis, shaped to broadcast along that axis of a tensor; NaN if unknown."""
        known = self.known(operand)
        return math.nan if known is None else aligned(known, axis, rank)


Carry: TypeAlias = Callable[[Numbers], "Sequence[Array | None]"]
"""The function from the known values of a node's operands to those of its results."""


def aligned(values: Array, axis: int, rank: int) -> Array:
    """Return a vector as a tensor of some rank that lies along one axis."""
    return values.reshape([-1 if k == axis % rank else 1 for k in range(rank)])


def uniform_along(values: Array, axes: Iterable[int]) -> Array:
    """Return the values known everywhere along some axes, which shrink to one element."""
    for axis in axes:
        if values.shape[axis] > 1:
            first = values.take([0], axis)
            alike = np.all(values == first, axis=axis, keepdims=True)  # never true of NaN
            values = np.where(alike, first, np.nan)
    return values


def narrowed(values: Array) -> Array:
    """Shrink the axes along which the values are constant to one element."""
    for axis, size in enumerate(values.shape):
        if size > 1:
            first = values.take([0], axis)
            if np.array_equal(values, np.broadcast_to(first, values.shape), equal_nan=True):
                values = first
    return values


def by_itself(v: Numbers) -> list[Array | None]:
    """Each element is made of the same elements of all operands: the operator is run on known elements."""
    present = [k for k, name in enumerate(v.node.input) if name]
    arrays = [v.known(k) for k in present]
    if any(a is None for a in arrays):
        return []
    known = ~np.isnan(sum((np.zeros(()) * a for a in arrays if a is not None), np.zeros(())))
    if not known.any() or known.size > LARGEST:
        return []
    filled = [
        np.where(np.isnan(a), 1, a).astype(v.kinds[k] or a.dtype)
        for k, a in zip(present, arrays, strict=True)
        if a is not None
    ]
    made = run(v, filled)
    if made is None or np.broadcast_shapes(made.shape, known.shape) != made.shape:
        return []
    return [np.where(known, made.astype(np.float64), np.nan)]


def same(v: Numbers) -> list[Array | None]:
    """The numbers of the first operand."""
    return [v.known(0)]


def moved(v: Numbers) -> list[Array | None]:
    """Elements of the first operand change places: so do the known ones among them."""
    return [_moved(v, [0])]


def joined(v: Numbers) -> list[Array | None]:
    """Likewise, of all operands."""
    return [_moved(v, range(len(v.node.input)))]


def _moved(v: Numbers, data: Iterable[int]) -> Array | None:
    """Run the operator on known elements.

    Axes that it does not change need not be written out, and open axes cannot be: one element stands for all
    as long as it remains one.
    """
    chosen = set(data)
    if all(v.known(k) is None for k in chosen) or any(v.shapes[k] is None for k in chosen):
        return None
    rest = [v.settled[k] for k, name in enumerate(v.node.input) if name and k not in chosen]
    if any(value is None for value in rest):
        return None
    shapes = [v.shapes[k] or () for k in sorted(chosen)]
    known = [v.operands[k] for k in sorted(chosen)]
    arrays = [np.full((1,) * len(s), np.nan) if a is None else a for a, s in zip(known, shapes, strict=True)]
    kept = [p and all(a.shape[k] == 1 for a in arrays if a.ndim > k) for k, p in enumerate(v.passing)]
    for short in dict.fromkeys((tuple(kept), (False,) * len(kept))):
        targets = [
            tuple(
                1 if (k < len(short) and short[k]) or (a.shape[k] == 1 and not isinstance(n, int)) else n
                for k, n in enumerate(shape)
            )
            for a, shape in zip(arrays, shapes, strict=True)
        ]
        written = [numbers for t in targets if (numbers := as_numbers(t)) is not None]
        if len(written) < len(targets) or sum(math.prod(t) for t in written) > LARGEST:
            continue
        full = [np.broadcast_to(a, t) for a, t in zip(arrays, written, strict=True)]
        made = run(v, [*full, *(value for value in rest if value is not None)])
        expected = v.results[0]
        if made is not None and expected is not None and made.ndim == len(expected):
            sizes = zip(made.shape, expected, strict=True)
            one = [not isinstance(w, int) or (k < len(short) and short[k]) for k, w in enumerate(expected)]
            if all(m == w or (m == 1 and one[k]) for k, (m, w) in enumerate(sizes)):
                return narrowed(made)
    return None


def parts(v: Numbers) -> list[Array | None]:
    """The first operand is cut along an axis (Split)."""
    known, shape = v.known(0), v.shapes[0]
    if known is None or shape is None or any(r is None for r in v.results):
        return []
    axis = int(v.attributes.get("axis", 0)) % len(shape)
    if known.shape[axis] == 1:
        return [known] * len(v.results)
    sizes = as_numbers([r[axis] for r in v.results if r is not None])
    if sizes is None:
        return []
    ends = np.cumsum(sizes)
    return [narrowed(piece) for piece in np.split(known, ends[:-1], axis)]


def averages(v: Numbers) -> list[Array | None]:
    """Rows that sum to one take means of the columns of the second operand (attention)."""
    known = v.known(1)
    if known is None or not v.means or known.ndim < 2:
        return []
    return [uniform_along(known, [known.ndim - 2])]


def in_order(v: Numbers) -> list[Array | None]:
    """The elements keep their order, along other axes (Reshape and its like).

    Axes are matched in blocks of the same number of elements; a block all of which is alike stays short.
    """
    known, old, new = v.known(0), v.shapes[0], v.results[0]
    if known is None or old is None or new is None or 0 in old:
        return []
    spread: list[int] = []
    target: list[int] = []
    for first, second in _blocks(old, new):
        if all(known.shape[k] == 1 for k in first):
            spread += [1] * len(first)
            target += [1] * len(second)
            continue
        before, after = as_numbers([old[k] for k in first]), as_numbers([new[k] for k in second])
        if before is None or after is None:
            return []
        spread += before
        target += after
    if math.prod(spread) > LARGEST:
        return []
    return [narrowed(np.broadcast_to(known, spread).reshape(target))]


def _blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Cut two lists of axes into the shortest runs of equally many elements for every input."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first: list[int] = []
        second: list[int] = []
        left: Extent = 1
        right: Extent = 1
        while (not first and not second) or left != right:
            if i == len(old) and j == len(new):
                break
            if j == len(new) or (i < len(old) and exact_quotient(right, left) is not None):
                left, i = left * old[i], i + 1
                first.append(i - 1)
            else:
                right, j = right * new[j], j + 1
                second.append(j - 1)
        blocks.append((first, second))
    return blocks


def as_numbers(shape: Iterable[Extent]) -> list[int] | None:
    """Return a shape as numbers, ``None`` where a size follows the input."""
    sizes = list(shape)
    numbers = [s for s in sizes if isinstance(s, int)]
    return numbers if len(numbers) == len(sizes) else None


def windows(fits: Callable[[Numbers], bool] = lambda _: True) -> Carry:
    """Make the rule of operators that average, or choose from, windows along all axes from the third on.

    Args:
        fits: Test that no window of this node reads other values, such as padding counted as zeros.
    """

    def carry(v: Numbers) -> list[Array | None]:
        known = v.known(0)
        return [] if known is None or not fits(v) else [uniform_along(known, range(2, known.ndim))]

    return carry


def scaled(bias: int | None, *, axis: int | None = None, scale: int = 1) -> Carry:
    """Make the rule of ``scale · f(x) + bias``: where the scale is zero the bias remains.

    Args:
        bias: The operand that is added, ``None`` for none.
        axis: The axis of the parameters; by default they are lined up from the right.
        scale: The operand that is multiplied with.
    """

    def carry(v: Numbers) -> list[Array | None]:
        factor, shape = v.known(scale), v.shapes[0]
        if factor is None or shape is None or not np.any(factor == 0):
            return []
        given = bias is not None and bias < len(v.node.input) and bool(v.node.input[bias])
        added = v.known(bias) if given and bias is not None else np.zeros(())
        if added is None:
            return []
        if axis is not None:
            factor = aligned(factor, axis, len(shape))
            added = aligned(added, axis, len(shape)) if added.ndim else added
        value = np.where(factor == 0, added, np.nan)
        return [value.reshape((1,) * (len(shape) - value.ndim) + value.shape)]

    return carry


def run(v: Numbers, operands: list[Array]) -> Array | None:
    """Return the first result of the node for these operands; ``None`` where that fails."""
    try:
        with np.errstate(all="ignore"):
            if v.node.domain in STANDARD_DOMAINS:
                return np.asarray(evaluate(v.node, operands, v.opset))
            return _run_in_runtime(v, operands)
    except Exception:  # any failure only means that the result is not known
        return None


def _run_in_runtime(v: Numbers, operands: list[Array]) -> Array:
    """Run an operator that only onnxruntime implements."""
    node = onnx.NodeProto()
    node.CopyFrom(v.node)
    names = [f"i{k}" for k in range(len(operands))]
    remaining = iter(names)
    del node.input[:], node.output[:]
    node.input.extend(next(remaining) if i else "" for i in v.node.input)
    node.output.append("o")
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, operands, strict=True)
    ]
    graph = helper.make_graph([node], "one node", inputs, [onnx.ValueInfoProto(name="o")])
    imports = [helper.make_opsetid(d, n) for d, n in v.opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = Session(model, optimize=False, threads=1)
    return session.run(dict(zip(names, operands, strict=True)))["o"]
