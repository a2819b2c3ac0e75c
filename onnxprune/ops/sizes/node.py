"""One node, as the argument of its size rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from onnxprune.algebra.sizes.algebra import (
    Extent,
    Size,
    Value,
    as_extent,
    is_nonnegative,
    is_positive,
    single_atom,
    stretched,
)
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import (
    BOOL,
    FEW,
    INT32,
    INT64,
    INTEGERS,
    SMALL,
    Shape,
    Values,
    each,
    filled,
    plain,
)
from onnxprune.ir import attributes, label

if TYPE_CHECKING:
    from onnxprune.analysis.sizes.walk import Walk


class SizedNode:
    """A node, the known shapes and values of its operands, and the results of its rule.

    Operands and results go by their places.

    Attributes:
        proto: The node itself.
        walk: The walk it is met in.
        operator: Its type.
        opset: The version of its operator domain.
    """

    def __init__(self, proto: onnx.NodeProto, walk: Walk) -> None:
        self.proto, self.walk = proto, walk
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self.operator: str = proto.op_type
        self.opset = walk.opset(proto.domain)
        self._attributes: Mapping[str, Any] | None = None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, strings decoded."""
        if self._attributes is None:
            self._attributes = attributes(self.proto) if self.proto.attribute else {}
        return self._attributes.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return an attribute that is 0 or 1.

        Raises:
            ContradictionError: It is another number, which runtimes read in different ways.
        """
        found = self.attribute(name, int(default))
        if found not in (0, 1):
            raise ContradictionError(f"its attribute '{name}' is {found}, neither 0 nor 1")
        return bool(found)

    def required(self, name: str) -> Any:
        """Return an attribute that the operator requires, strings decoded.

        Raises:
            ContradictionError: The node has none.
        """
        found = self.attribute(name)
        if found is None:
            raise ContradictionError(f"its attribute '{name}' is missing")
        return found

    @property
    def label(self) -> str:
        """The name of the node in messages."""
        return label(self.proto)

    def has(self, place: int) -> bool:
        """Return whether an operand is given."""
        return place < len(self.inputs) and bool(self.inputs[place])

    def shape(self, place: int = 0) -> Shape | None:
        """Return an operand's shape, ``None`` where its rank is not known or it is left out."""
        return self.walk.shape(self.inputs[place]) if self.has(place) else None

    def kind(self, place: int = 0) -> int | None:
        """Return an operand's element type."""
        return self.walk.tensors.types.get(self.inputs[place]) if self.has(place) else None

    def known(self, place: int) -> Values | None:
        """Return the numbers of a small operand that are known before the run."""
        name = self.inputs[place] if self.has(place) else ""
        return self.walk.value(name) if name and self.walk.has_value(name) else None

    def value(self, place: int) -> Values | None:
        """Return the numbers of a small integer operand; those not known are symbols without limits."""
        found = self.known(place)
        shape, kind = self.shape(place), self.kind(place)
        if found is not None or shape is None or kind not in INTEGERS:
            return found
        sizes = plain(shape)
        if sizes is None or math.prod(sizes) > FEW:
            return None
        name, limits = self.inputs[place], (0, 1) if kind == onnx.TensorProto.BOOL else (None, None)
        count = math.prod(sizes)
        texts = [f"{name}[{k}]" for k in range(count)] if sizes else [name]
        found = filled(sizes, [self.walk.facts.fresh(text, *limits) for text in texts])
        self.walk.tensors.values[name] = found
        self.walk.tensors.invented.add(name)
        return found

    def elements(self, place: int) -> list[Value] | None:
        """Return the elements of a small integer operand, in order."""
        found = self.value(place)
        return None if found is None else list(found.ravel())

    def target(self, place: int) -> list[Value] | None:
        """Return the sizes, bounds or counts that an operand lists.

        Raises:
            ContradictionError: It is of another type than int64 or int32.
        """
        self._check_integers(place)
        return self.elements(place)

    def numbers(self, place: int) -> list[int] | None:
        """Return the elements of an integer operand if all are plain numbers.

        Raises:
            ContradictionError: It is of another type than int64, int32 or bool.
        """
        self._check_integers(place, BOOL)
        found = self.known(place)
        return None if found is None else plain(found.ravel())

    def _check_integers(self, place: int, *others: int) -> None:
        kind = self.kind(place)
        if kind is not None and kind not in (INT32, INT64, *others):
            name = onnx.TensorProto.DataType.Name(kind).lower()
            raise ContradictionError(f"operand {place + 1} lists numbers of type {name}, not int64")

    def length(self, place: int) -> int | None:
        """Return the number of elements of an operand of one axis, where that is a plain number."""
        shape = self.shape(place)
        if shape is None:
            return None
        count = math.prod(shape)
        return count if isinstance(count, int) else None

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            ContradictionError: There is none.
        """
        if not -rank <= axis < rank:
            raise ContradictionError(f"axis {axis} of a tensor of {rank} axes")
        return axis % rank

    def put(
        self,
        place: int,
        shape: Sequence[Value] | None,
        kind: int | None = None,
        value: Values | None = None,
    ) -> None:
        """State the shape, type and values of a result.

        Args:
            place: Number of the result; one that the node does not have is passed over.
            shape: Its shape, ``None`` where the rank is not known.
            kind: Its element type, by default that of the first operand.
            value: Its numbers, where they are known before the run.
        """
        if place < len(self.outputs) and self.outputs[place]:
            self.walk.put(self.outputs[place], shape, self.kind() if kind is None else kind, value)

    def put_all(self, shape: Sequence[Value] | None, kind: int | None = None) -> None:
        """Give all results one shape."""
        for place in range(len(self.outputs)):
            self.put(place, shape, kind)

    def put_rank(self, rank: int | None, kind: int | None = None, place: int = 0) -> None:
        """Set the rank of a result whose sizes are unknown."""
        self.put(place, None if rank is None else [self.fresh(place, k) for k in range(rank)], kind)

    def fresh(self, place: int, axis: int | str, lower: int | None = 0) -> Size:
        """Return a symbol for an axis of a result that is not known."""
        name = self.outputs[place] if place < len(self.outputs) else self.label
        return self.walk.facts.fresh(f"{name}.{axis}", lower)

    def nonnegative(self, size: Value, place: int, axis: int) -> Extent:
        """Return a size that is never negative, or a symbol for one that may be."""
        return as_extent(size) if self.is_nonnegative(size) else self.fresh(place, axis)

    def is_nonnegative(self, size: Value) -> bool:
        """Return whether a size is never negative: by its form, or because a tensor has an axis of it."""
        facts = self.walk.facts
        return facts.is_nonnegative(facts.now(size))

    def same(self, a: Value, b: Value, reason: str) -> Extent:
        """Take two sizes for equal, and return the simpler one."""
        return self.walk.facts.same(as_extent(a), as_extent(b), self.label, reason)

    def could_be(self, a: Value, b: Value, reason: str) -> bool:
        """Return whether two sizes may be equal; record the demand, without deriving facts from it."""
        return self.walk.facts.could_be(as_extent(a), as_extent(b), self.label, reason)

    def need_nonnegative(self, size: Value, reason: str) -> None:
        """Demand that a size is 0 or more.

        Raises:
            ContradictionError: It never is.
        """
        size = self.walk.facts.now(size)
        if is_nonnegative(size):
            return
        if is_positive(-size):
            raise ContradictionError(f"{reason}: {size} is negative")
        self.walk.facts.need("nonnegative", as_extent(size), (), self.label, reason)

    def broadcast(self, shapes: Sequence[Sequence[Value] | None]) -> Shape | None:
        """Return the shape that some shapes broadcast to.

        Raises:
            ContradictionError: They do not.
        """
        known = [s for s in shapes if s is not None]
        if len(known) != len(shapes) or not known:
            return None
        if all(s == known[0] for s in known[1:]):
            return tuple(map(as_extent, known[0]))
        rank = max(map(len, known))
        return tuple(
            self._broadcast_axis([as_extent(s[axis]) for s in known if len(s) >= -axis], axis)
            for axis in range(-rank, 0)
        )

    def _broadcast_axis(self, sizes: Sequence[Extent], axis: int) -> Extent:
        found = sizes[0]
        for size in sizes[1:]:
            if size == found or size == 1:
                continue
            if found == 1:
                found = size
            elif isinstance(found, int) and isinstance(size, int):
                raise ContradictionError(f"axis {axis}: {found} and {size} do not broadcast")
            else:
                found = self._stretched(found, size, axis)
        return found

    def _stretched(self, a: Extent, b: Extent, axis: int) -> Extent:
        facts, found = self.walk.facts, stretched(a, b)
        reason = f"broadcast of axis {axis}"
        for one, other in ((a, b), (b, a)):
            if isinstance(one, int):
                facts.need("one of", other, (one, 1), self.label, reason)
                return found
        atom = single_atom(found)
        if atom is not None and atom.kind == "stretched":
            facts.undecided[f"{a} and {b} broadcast (node '{self.label}': axis {axis})"] = None
        facts.need("broadcast", a, (b,), self.label, reason)
        return found

    def ask(self) -> None:
        """Leave the node to onnx and onnxruntime."""
        self.walk.ask(self)


def moved(values: Values | None, sizes: Sequence[Value] | None) -> Values | None:
    """Return values in another shape, ``None`` where that is not known to hold them."""
    shape = plain(sizes)
    if values is None or shape is None or math.prod(shape) != values.size or values.size > SMALL:
        return None
    found: Values = values.reshape(shape)
    return found


def wrapped(values: Values, bits: int, *, signed: bool) -> Values:
    """Return integers as a type of some bits has them; sizes are taken to fit."""

    def one(x: Value) -> Value:
        if not isinstance(x, int) or (0 <= x < 2 ** (bits - 1)):
            return x
        x %= 2**bits
        return x - 2**bits if signed and x >= 2 ** (bits - 1) else x

    return each(one, values)
