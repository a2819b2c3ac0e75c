"""The context of an axis rule: the operands of its node, and the statements it can make.

A rule states which axes are the same (``same``, ``match``), which must stay (``block``), over which it sums
(``contract``), which operands are weights that masking may set to zero (``weights``), and which attributes
and operands hold sizes that must follow (``follow_attribute``, ``follow_operand``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.axes import Block, Dim, Factor, block, factors, nested, unify, unify_ends
from onnxprune.algebra.sizes.algebra import Extent, exact_quotient
from onnxprune.ir import FLOAT_TYPES, attributes, captured, label
from onnxprune.ops.axes import notation
from onnxprune.ops.axes.axis_typing import Typing, UnknownOperandError
from onnxprune.ops.axes.statements import (
    RESULT,
    Axes,
    Cap,
    Contraction,
    Divisor,
    IndexUse,
    Inexact,
    Quantised,
    Rescale,
    SizeUse,
    Work,
)
from onnxprune.ops.axes.variables import Indexing
from onnxprune.ops.spec import OpSpec
from onnxprune.ops.views import Operands

UNALIGNED = "its axes cannot be lined up channel by channel"
INEXACT_OPENS = " (--allow-inexact opens it)"
"""End of the reasons that the option lifts."""


@dataclass
class Context:
    """One node, as the argument of its rule."""

    typing: Typing
    index: int
    node: onnx.NodeProto
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, typing: Typing, index: int, node: onnx.NodeProto) -> Context:
        """Make the context of a node."""
        return cls(typing, index, node, attributes(node))

    @property
    def opset(self) -> int:
        """The version of the operator's domain."""
        return self.typing.model.opset(self.node.domain)

    def why(self, reason: str) -> Block:
        """Return a block that names this node."""
        return Block(label(self.node), self.node.op_type, reason)

    def has(self, operand: int) -> bool:
        """Return whether an optional operand is given."""
        return operand < len(self.node.input) and bool(self.node.input[operand])

    def makes(self, result: int) -> bool:
        """Return whether an optional result is present."""
        return result < len(self.node.output) and bool(self.node.output[result])

    def axes(self, operand: int) -> Axes:
        """Return the dims of an operand."""
        return self.typing.axes_of(self.node.input[operand])

    def shape(self, operand: int) -> tuple[Extent, ...]:
        """Return the sizes of an operand."""
        return tuple(d.size for d in self.axes(operand))

    def count(self, size: Extent) -> int:
        """Return a size that has to be a number.

        Raises:
            UnknownOperandError: It follows the input.
        """
        if not isinstance(size, int):
            raise UnknownOperandError(f"the size {size} follows the input")
        return size

    def parts_of(self, size: Extent, divisor: Extent) -> Extent:
        """Return the number of parts of one size that an axis has.

        Raises:
            UnknownOperandError: The parts do not fill it for all inputs.
        """
        quotient = exact_quotient(size, divisor) if divisor != 0 else None
        if quotient is None:
            raise UnknownOperandError(f"the size {size} is no multiple of {divisor}")
        return quotient

    def result_shape(self, result: int = 0) -> tuple[Extent, ...]:
        """Return the sizes of a result, as the size analysis has them."""
        name = self.node.output[result]
        if name not in self.typing.shapes.sizes:
            raise UnknownOperandError(f"the shape of its result '{name}' is not known")
        return self.typing.shapes.sizes[name]

    def value(self, operand: int) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Return an operand's numbers where they are known before the run (``None``: at run time only)."""
        return self.typing.shapes.values.get(self.node.input[operand]) if self.has(operand) else None

    def constant(self, operand: int) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Return an operand's numbers where they are a constant of any size, or known before the run."""
        if self.has(operand) and self.node.input[operand] in self.typing.model.constants:
            return self.typing.model.array(self.node.input[operand])
        return self.value(operand)

    def numbers(self, attribute: str, operand: int) -> list[int] | None:
        """Return integers that older opsets keep in an attribute and newer ones in an operand.

        Raises:
            UnknownOperandError: They are computed at run time, or follow the input.
        """
        listed = self.listed(attribute, operand)
        if listed is None:
            return None
        if not all(isinstance(v, int) for v in listed):
            raise UnknownOperandError(f"its '{attribute}' are computed at run time")
        return [v for v in listed if isinstance(v, int)]

    def listed(self, attribute: str, operand: int) -> list[Extent | None] | None:
        """Return the same integers as expressions in the input's sizes, ``None`` for each unknown one.

        Raises:
            UnknownOperandError: Not even their number is known.
        """
        if attribute in self.attributes:
            found = self.attributes[attribute]
            return [int(v) for v in (found if isinstance(found, list) else [found])]
        if not self.has(operand):
            return None
        self.keep_list(operand)
        listed = self.typing.shapes.integers(self.node.input[operand])
        if listed is None:
            raise UnknownOperandError(f"its '{attribute}' are computed at run time")
        return listed

    def define(self, result: int, axes: Sequence[Dim]) -> None:
        """Define the axes of a result; where shape inference knows them, it has to agree.

        Two expressions of one size, such as those of tensors that are joined, need not be equal for the
        algebra: that axis stays as it is.
        """
        if not self.makes(result):
            return
        sizes = tuple(d.size for d in axes)
        inferred = self.typing.shapes.sizes.get(self.node.output[result], sizes)
        if len(sizes) != len(inferred) or any(
            a != b and isinstance(a, int) and isinstance(b, int) for a, b in zip(sizes, inferred, strict=True)
        ):
            found, expected = (", ".join(map(str, s)) for s in (inferred, sizes))
            raise UnknownOperandError(f"its result is [{found}] but its rule expects [{expected}]")
        self.typing.axes[self.node.output[result]] = tuple(
            dim if dim.size == size else self._stays(dim, size)
            for dim, size in zip(axes, inferred, strict=True)
        )

    def _stays(self, dim: Dim, size: Extent) -> Dim:
        """Block an axis, and return one of another expression of its size."""
        self.block(dim, UNALIGNED)
        return self.fixed(size, UNALIGNED)

    def same(self, a: Dim, b: Dim) -> None:
        """State that two dims are one axis."""
        if not unify(a, b, self.why(UNALIGNED)):
            self.typing.mixes.extend((self.index, f) for dim in (a, b) for f in factors(dim))

    def same_elements(self, before: Sequence[Dim], after: Sequence[Dim]) -> None:
        """State that two lists of axes, major to minor, run over the same elements in the same order."""
        a, b = nested(before), nested(after)
        if a.size == b.size:
            self.same(a, b)
        elif not unify_ends(before, after, self.why(UNALIGNED)):
            self.typing.mixes.extend((self.index, f) for dim in (a, b) for f in factors(dim))

    def block(self, dim: Dim, reason: str) -> None:
        """State that an axis must stay as it is."""
        self.typing.mixes.append((self.index, dim))
        block(dim, self.why(reason))

    def normalises(self, dim: Dim, reason: str, over: Sequence[int] = ()) -> None:
        """Open statistics over an axis if the user accepts the change by its shortening; block it otherwise.

        Args:
            dim: The axis.
            reason: The reason of the block, stated where the user does not accept the change.
            over: The axes of the first operand over which mean and deviation are taken together, where the
                result is rescaled by their length (see `Rescale`).
        """
        self.typing.mixes.append((self.index, dim))
        if self.typing.allow_inexact:
            operand = self.node.input[0] if over else ""
            self.typing.inexact.append(Inexact(self.index, dim, operand, tuple(over), centred=True))
        else:
            self.block(dim, reason + INEXACT_OPENS)

    def fixed(self, size: Extent, reason: str) -> Factor:
        """Return a new axis that must stay as it is."""
        return Factor(self.typing.shapes.analysis.simplified(size), [self.why(reason)])

    def runs_along(self, indexing: Indexing) -> None:
        """State which axes of operands and results run along the same index, beside earlier statements."""
        known = self.typing.indexing.get(self.index, Indexing())
        self.typing.indexing[self.index] = known.with_(indexing)

    def contract(
        self,
        dim: Dim,
        *operands: int,
        results: Sequence[int] = (),
        axis: int | None = None,
        statistic: bool = False,
    ) -> None:
        """State that the node sums over an axis of the operands, or of recurrent results.

        Args:
            dim: Dim that is summed over.
            operands: Operands that have it.
            results: Results that are summed over in the next step.
            axis: Number of that axis in the first operand, where it has the dim on several.
            statistic: True if the sum is that of a mean or a norm.
        """
        names = tuple(self.node.input[o] for o in operands)
        names += tuple(self.node.output[r] for r in results if self.makes(r))
        self.typing.contractions.append(Contraction(self.index, dim, names, statistic, axis))

    def rescale_result(self, dim: Dim, power: float) -> None:
        """State that the first result is to be multiplied when an axis is shortened (see ``Rescale``).

        Only floats can be: integers are rounded before, and other types have no products.
        """
        if self.typing.shapes.types.get(self.node.output[0]) not in FLOAT_TYPES:
            self.block(dim, "its result depends on this size, and is no float")
        self.typing.rescales.append(Rescale(self.index, dim, power))

    def rescale_operand(self, operand: int, dim: Dim, power: float) -> None:
        """State that a constant operand is to be multiplied when an axis is shortened."""
        name = self.node.input[operand]
        if name not in self.typing.model.constants:
            self.block(dim, f"'{name}' would have to be rescaled with this size, and is no constant")
        self.typing.rescales.append(Rescale(self.index, dim, power, operand=operand))

    def rescale_attribute(self, attribute: str, default: float, dim: Dim, power: float) -> None:
        """State that an attribute is to be multiplied when an axis is shortened."""
        self.typing.rescales.append(Rescale(self.index, dim, power, attribute=(attribute, default)))

    def divides_by(self, operand: int, *dims: Dim, above: bool = False) -> None:
        """State that an operand must not become zero, along all its axes or some of them.

        Args:
            operand: The operand.
            dims: Some of its axes.
            above: True if numbers below zero have no finite result either.
        """
        which = tuple(dims or self.axes(operand))
        self.typing.divisors.append(Divisor(self.index, self.node.input[operand], which, above))

    def weights(self, *operands: int) -> None:
        """State that operands are parameters that masking may set to zero, moved about on the way or not."""
        for operand in operands:
            if self.has(operand):
                name, place = self.node.input[operand], (self.index, operand)
                while (mover := self.typing.movers.get(name)) is not None:
                    name, place = self.typing.nodes[mover].input[0], (mover, 0)
                self.typing.weight_uses.setdefault(name, set()).add(place)
                self.typing.users.setdefault(place, self.index)

    def reads(self, operand: int, how: Quantised) -> None:
        """State the quantisation of an operand."""
        if self.has(operand):
            self.typing.readings.append((self.node.input[operand], self.index, how))

    def writes(self, result: int, how: Quantised) -> None:
        """State the quantisation of a result."""
        if self.makes(result):
            self.typing.readings.append((self.node.output[result], self.index, how))

    def moves(self) -> None:
        """State that the result is the first operand, its elements moved or retyped."""
        self.typing.movers[self.node.output[0]] = self.index

    def makes_no_zeros(self) -> None:
        """State that the result is not zero where the operands are, with these attributes."""
        self.typing.never_zero.add(self.index)

    def plays(self, role: str, dim: Dim) -> None:
        """State the meaning of an axis, for people."""
        self.typing.roles.append((role, dim))

    def works(self, *dims: Dim) -> None:
        """State how many multiply-accumulates the node takes: the product of the sizes."""
        self.typing.work.append(Work(self.index, dims))

    def multiplies(self, spec: OpSpec) -> None:
        """Note the linear views of the node, as the spec of its operator has them."""
        shapes = [
            self.shape(k) if name and name in self.typing.shapes.sizes else None
            for k, name in enumerate(self.node.input)
        ]
        views = spec.views(Operands(self.attributes, shapes))
        if views:
            self.typing.linear[self.index] = views

    def sums_to_one(self) -> None:
        """State that the result's elements along its last axis sum to one."""
        self.typing.means.add(self.node.output[0])

    def prefer_other(self, dim: Dim) -> None:
        """State that, where this axis is one factor of a product, the other factor is the one to prune."""
        self.typing.secondary.append(dim)

    def follow_attribute(self, attribute: str, dim: Dim, element: int | None = None) -> None:
        """State that an attribute, or one element of it, is the size of a dim."""
        self.typing.size_uses.append(SizeUse(self.index, attribute, -1, element, dim))

    def caps_attribute(self, attribute: str, dim: Dim) -> None:
        """State that an attribute is a number of elements of a dim, all of them where fewer remain."""
        self.typing.caps.append(Cap(self.index, attribute, dim))

    def switches_off(self, dim: Dim, constant: str, number: float) -> None:
        """State that the node ignores elements of a dim where a constant holds a number."""
        self.typing.absent[constant] = number
        self.typing.contractions.append(Contraction(self.index, dim, (constant,)))

    def keep_list(self, operand: int) -> None:
        """State that an operand is a list with an element for each axis or bound, which all stay."""
        name = self.node.input[operand]
        for dim in self.axes(operand) if name in self.typing.shapes.sizes or name in self.typing.axes else ():
            block(dim, self.why("its elements are sizes, or places on other axes"))

    def follow_operand(self, operand: int, element: int, dim: Dim) -> None:
        """State that an element of an operand is the size of a dim."""
        self.keep_list(operand)
        self.typing.size_uses.append(SizeUse(self.index, None, operand, element, dim))

    def follow(
        self, attribute: str, operand: int, element: int, dim: Dim, *, backwards: bool = False
    ) -> None:
        """State that a number is the size of a dim, be it in an attribute (older opsets) or in an operand."""
        held = attribute if attribute in self.attributes else None
        place = -1 if held else operand
        if not held and self.has(operand):
            self.keep_list(operand)
        self.typing.size_uses.append(SizeUse(self.index, held, place, element, dim, backwards))

    def reads_size(self, element: int, dim: Dim) -> None:
        """State that an element of the result is the size of a dim, read off while the network runs."""
        self.typing.size_uses.append(SizeUse(self.index, None, RESULT, element, dim))

    def follow_indices(self, operand: int, dim: Dim, *, axis: int = 0, column: int | None = None) -> None:
        """State that an operand lists elements of a dim by their number.

        Args:
            operand: A constant.
            dim: The dim.
            axis: The axis of the list along which the elements follow each other.
            column: Number of the entry along the last axis of the list that holds it; ``None`` where all do.
        """
        self.typing.index_uses.append(IndexUse(self.index, operand, dim, axis, column))

    def match(self, pattern: str, given: Mapping[str, Extent] | None = None) -> dict[str, Dim]:
        """Apply an axis pattern such as ``A[m k] B[k n] C[n] -> Y[m n]`` (see ``rules.notation``)."""
        if not notation.fits(self, pattern):
            raise UnknownOperandError("its operands have other ranks than its rule expects")
        return notation.match(self, pattern, given or {})

    def refuse(self, reason: str) -> None:
        """Block every axis this node touches."""
        self.typing.refused[self.index] = reason
        for name in [i for i in self.node.input if i] + sorted(captured(self.node)):
            if name in self.typing.shapes.sizes or name in self.typing.axes:
                for dim in self.typing.axes_of(name):
                    self.block(dim, reason)
        for name in filter(None, self.node.output):
            sizes = self.typing.shapes.sizes.get(name)
            if sizes is not None:
                self.typing.axes[name] = tuple(self.fixed(s, reason) for s in sizes)
