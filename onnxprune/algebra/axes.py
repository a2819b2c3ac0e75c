"""Axes as types: factors, sums and products of them, and unification.

An axis of a tensor is described by a *dim*:

* a ``Factor`` is a variable with a size. Coupled channels are one factor;
* a ``Sum`` is axes laid end to end (the result of Concat, cut by Split and Slice);
* a ``Mirror`` is an axis read backwards (the result of a Slice with step −1);
* a ``Product`` is axes nested major to minor (merged and split by Reshape; also the channels of a grouped
  convolution and of attention heads).

``unify`` states that two dims are the same axis. As in a type checker it binds factors until both sides are
identical: a sum meets a sum at their common cut points, a product meets a product at the common divisors of
their minor ends. Factors that cannot be reconciled are *blocked*: they keep their size and hold the reason.

Sizes are numbers, or expressions in the sizes of the input (`onnxprune.algebra.sizes`). Two sizes are equal
only if their expressions are, one divides another only if the quotient is exact for all inputs, and an axis
is cut only where the order of the cut points is proved. A factor is only ever bound to parts smaller than
itself, so no factor can contain itself: the occurs check of a type checker holds by construction.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from onnxprune.algebra.sizes.algebra import Extent, common_divisor, exact_quotient

MAX_REASONS = 4


@dataclass(frozen=True)
class Block:
    """Why a factor cannot be pruned: the node, its operator, and a sentence."""

    node: str
    operator: str
    reason: str


def as_count(size: Extent) -> int:
    """Return a size that is a number.

    Raises:
        ValueError: It follows the input.
    """
    if not isinstance(size, int):
        raise ValueError(f"the size {size} follows the input")
    return size


class Sized:
    """A description of an axis, which has a size."""

    __slots__ = ()
    size: Extent

    @property
    def count(self) -> int:
        """The size of an axis of constants.

        Raises:
            ValueError: The size follows the input.
        """
        return as_count(self.size)


@dataclass(eq=False, slots=True)
class Factor(Sized):
    """A variable axis: ``link`` is the dim it is bound to, ``blocks`` holds the reasons of its fixed size."""

    size: Extent
    blocks: list[Block] = field(default_factory=list)
    link: Dim | None = None

    @property
    def free(self) -> bool:
        """Return whether single elements may be removed: unbound, unblocked, of a known size above 1."""
        return self.link is None and not self.blocks and isinstance(self.size, int) and self.size > 1


@dataclass(frozen=True)
class Sum(Sized):
    """Axes laid end to end."""

    parts: tuple[Dim, ...]
    size: Extent = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum((p.size for p in self.parts), 0))


@dataclass(frozen=True)
class Product(Sized):
    """Axes nested, the slowest first."""

    parts: tuple[Dim, ...]
    size: Extent = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod((p.size for p in self.parts), start=1))


@dataclass(frozen=True)
class Mirror(Sized):
    """An axis from its last element to its first."""

    of: Dim

    @property
    def size(self) -> Extent:  # type: ignore[override]
        """The size of the axis."""
        return self.of.size

    @property
    def parts(self) -> tuple[Dim, ...]:
        """The axis, as the only part."""
        return (self.of,)


Dim: TypeAlias = "Factor | Sum | Product | Mirror"
Equation: TypeAlias = "tuple[Dim, Dim]"


def concatenated(parts: Iterable[Dim]) -> Dim:
    """Return the dims laid end to end, empty ones left out."""
    present = tuple(p for p in parts if p.size != 0)
    return present[0] if len(present) == 1 else Sum(present)


def nested(parts: Iterable[Dim]) -> Dim:
    """Return the dims nested major to minor, those of one element left out."""
    parts = tuple(parts)
    present = tuple(p for p in parts if p.size != 1)
    if not present:
        return parts[0] if parts else Factor(1)
    return present[0] if len(present) == 1 else Product(present)


def resolve(dim: Dim) -> Dim:
    """Follow all bindings and flatten: no sum in a sum, no product in a product.

    The result is kept in the bindings. Chains of them may be as long as the network is deep, so they are
    followed in a loop; only sums in products and products in sums, which halve in size, are in recursion.
    """
    if isinstance(dim, Factor):
        return dim if dim.link is None else _end_of(dim)
    if isinstance(dim, Mirror):
        return _mirrored(dim)
    kind = type(dim)
    waiting, flat = list(dim.parts[::-1]), list[Dim]()
    while waiting:
        part = waiting.pop()
        while isinstance(part, Factor) and part.link is not None:
            part = part.link
        if isinstance(part, Factor):
            flat.append(part)
        elif isinstance(part, kind):
            waiting.extend(part.parts[::-1])
        else:
            inner = resolve(part)
            flat.extend(inner.parts if isinstance(inner, kind) else (inner,))
    if len(flat) == len(dim.parts) and all(map(operator.is_, flat, dim.parts)):
        return dim
    return concatenated(flat) if kind is Sum else nested(flat)


def _mirrored(dim: Mirror) -> Dim:
    """Resolve a mirrored dim: mirrors remain around factors only."""
    inside = resolve(dim.of)
    if isinstance(inside, Mirror):
        return inside.of
    if isinstance(inside, Sum):
        return concatenated(resolve(Mirror(part)) for part in reversed(inside.parts))
    if isinstance(inside, Product):
        return nested(resolve(Mirror(part)) for part in inside.parts)
    return inside if inside.size == 1 else dim if inside is dim.of else Mirror(inside)


def _end_of(factor: Factor) -> Dim:
    """Resolve a bound factor, and bind all factors on the path to the resolved dim."""
    passed, dim = [factor], factor.link
    while isinstance(dim, Factor) and dim.link is not None:
        passed.append(dim)
        dim = dim.link
    assert dim is not None
    found = resolve(dim)
    for each in passed:
        each.link = found
    return found


def factors(dim: Dim) -> list[Factor]:
    """Return the unbound factors of a dim, in the order of its elements, repeats included."""
    return _leaves(resolve(dim))


def _leaves(dim: Dim) -> list[Factor]:
    """Return the factors of a resolved dim."""
    return [dim] if isinstance(dim, Factor) else [f for p in dim.parts for f in _leaves(p)]


def block(dim: Dim, why: Block) -> None:
    """Fix every factor of a dim."""
    for factor in factors(dim):
        if why not in factor.blocks and len(factor.blocks) < MAX_REASONS:
            factor.blocks.append(why)


def unify(a: Dim, b: Dim, why: Block) -> bool:
    """Make two dims the same axis.

    Equations that follow from others are kept in a list, so the depth of a network or of an axis is no limit.

    Args:
        a: One description of the axis.
        b: The other.
        why: The operator that equates them. If the two cannot be reconciled, their factors are blocked with
            it.

    Returns:
        True if they could be reconciled.
    """
    waiting: list[Equation] = [(a, b)]
    done = True
    while waiting:
        x, y = map(resolve, waiting.pop())
        if x == y:
            continue
        if x.size == y.size:
            parts, whole = _compared(x, y, why)
            waiting.extend(reversed(parts))
        else:
            whole = _blocked((x, y), why)
        done &= whole
    return done


def _compared(a: Dim, b: Dim, why: Block) -> tuple[list[Equation], bool]:
    """Return the equations between parts of two dims of one size, and whether they are complete."""
    if isinstance(a, Factor):
        return [], _bind_to_mirror(a, b, why) if isinstance(b, Mirror) else _bind(a, b)
    if isinstance(b, Factor):
        return [], _bind_to_mirror(b, a, why) if isinstance(a, Mirror) else _bind(b, a)
    if isinstance(a, Mirror):
        return [(a.of, Mirror(b))], True
    if isinstance(b, Mirror):
        return [(b.of, Mirror(a))], True
    if isinstance(a, Product) and isinstance(b, Product):
        return _compared_products(a.parts, b.parts, why)
    parts, others = (d.parts if isinstance(d, Sum) else (d,) for d in (a, b))
    return _compared_sums(parts, others, why)


def _bind(factor: Factor, dim: Dim) -> bool:
    factor.link = dim
    for why in factor.blocks:
        block(dim, why)
    return True


def _bind_to_mirror(factor: Factor, dim: Mirror, why: Block) -> bool:
    """Bind a factor to a mirrored one; if it is its own mirror, its second half mirrors the first."""
    if dim.of is not factor:
        return _bind(factor, dim)
    if not isinstance(factor.size, int):
        return _blocked((factor,), why)
    half = Factor(factor.size // 2)
    return _bind(factor, concatenated((half, Factor(factor.size % 2), Mirror(half))))


def _compared_sums(a: Sequence[Dim], b: Sequence[Dim], why: Block) -> tuple[list[Equation], bool]:
    """Walk both sums, cutting the longer piece wherever the shorter one ends."""
    left, right = list(reversed(a)), list(reversed(b))
    found: list[Equation] = []
    while left and right:
        x, y = resolve(left.pop()), resolve(right.pop())
        longer = x.size - y.size
        if not isinstance(longer, int):
            return found, _blocked([*left, x, *right, y], why)
        if longer > 0:
            x, rest = split(x, y.size, why)
            left.append(rest)
        elif longer < 0:
            y, rest = split(y, x.size, why)
            right.append(rest)
        found.append((x, y))
    return found, True


def split(dim: Dim, at: Extent, why: Block) -> tuple[Dim, Dim]:
    """Cut a dim after its first ``at`` elements, ``0 < at < size``.

    A cut whose place among the parts is not known for all inputs blocks the dim.
    """
    dim = resolve(dim)
    if isinstance(dim, Factor) and isinstance(dim.size, int) == isinstance(at, int):
        first, second = Factor(at), Factor(dim.size - at)
        _bind(dim, Sum((first, second)))
        return first, second
    if isinstance(dim, Product) and isinstance(dim.size, int) and isinstance(at, int):
        return _split_product(dim, at, why)
    if isinstance(dim, Mirror):
        tail, head = split(dim.of, dim.size - at, why)
        return Mirror(head), Mirror(tail)
    if isinstance(dim, Sum):
        return _split_sum(dim, at, why)
    block(dim, why)
    return Factor(at, [why]), Factor(dim.size - at, [why])


def _split_sum(dim: Sum, at: Extent, why: Block) -> tuple[Dim, Dim]:
    """Pass over the parts that end before the cut; cut the part it falls into."""
    before: list[Dim] = []
    rest = list(dim.parts)
    left = at
    while not isinstance(over := left - rest[0].size, int) or over >= 0:
        if not isinstance(over, int):
            block(dim, why)
            return Factor(at, [why]), Factor(dim.size - at, [why])
        left = over
        before.append(rest.pop(0))
        if not left:
            return concatenated(before), concatenated(rest)
    first_part, rest[0] = split(rest[0], left, why)
    return concatenated([*before, first_part]), concatenated(rest)


def _split_product(dim: Product, at: int, why: Block) -> tuple[Dim, Dim]:
    """Cut between two blocks, or within one: that block stays, those before and after it are still free."""
    major, minor = dim.parts[0], nested(dim.parts[1:])
    whole, inside = divmod(at, minor.count)
    before, rest = split(major, whole, why) if whole else (None, major)
    if not inside:
        assert before is not None
        return nested((before, minor)), nested((rest, minor))
    after = split(rest, 1, why)[1] if rest.size != 1 else None
    first, second = split(minor, inside, why)
    left = [first] if before is None else [nested((before, minor)), first]
    right = [second] if after is None else [second, nested((after, minor))]
    return concatenated(left), concatenated(right)


def _compared_products(a: Sequence[Dim], b: Sequence[Dim], why: Block) -> tuple[list[Equation], bool]:
    """Walk both products from their minor ends, factoring the common divisor out of unequal parts."""
    left, right, found = _minor_ends(a, b)
    return found, _blocked([*left, *right], why) if left and right else True


def _minor_ends(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[list[Dim], list[Dim], list[Equation]]:
    """Equate the minor ends of two products; return the parts before them, and the equations."""
    left, right = _spread(a), _spread(b)
    found: list[Equation] = []
    while left and right:
        common = common_divisor(left[-1].size, right[-1].size)
        if common == 1 or any(exact_quotient(p[-1].size, common) is None for p in (left, right)):
            break
        found.append((_minor_of(left, common, found), _minor_of(right, common, found)))
    return left, right, found


def unify_ends(a: Sequence[Dim], b: Sequence[Dim], why: Block) -> bool:
    """Line up two lists of axes over the same elements, whose sizes are equal for reasons the algebra lacks.

    Their minor ends are compared as in products of one size, then axes of one size from the major end. The
    axes in between, such as a batch and a length that depend on another batch, are blocked.

    Returns:
        True if nothing was blocked.
    """
    left, right, found = _minor_ends(a, b)
    while left and right and left[0].size == right[0].size:
        found.append((left.pop(0), right.pop(0)))
    done = _blocked([*left, *right], why) if left or right else True
    for x, y in found:
        done &= unify(x, y, why)
    return done


def _minor_of(parts: list[Dim], size: Extent, found: list[Equation]) -> Dim:
    """Take the minor part of ``size`` elements off the last of some axes; the rest of it takes its place."""
    last = parts.pop()
    if last.size == size:
        return last
    quotient = exact_quotient(last.size, size)
    assert quotient is not None
    major, minor = Factor(quotient), Factor(size)
    found.append((last, Product((major, minor))))
    parts.append(major)
    return minor


def _spread(parts: Iterable[Dim]) -> list[Dim]:
    """Resolve parts of a product, which may have become products by now, into one flat list."""
    flat: list[Dim] = []
    for part in map(resolve, parts):
        flat.extend(part.parts if isinstance(part, Product) else (part,))
    return [p for p in flat if p.size != 1]


def factor_out(dim: Dim, size: Extent, why: Block) -> tuple[Dim, Dim] | None:
    """Describe a dim as a product whose minor part has ``size`` elements; ``None`` where that fails."""
    dim = resolve(dim)
    if size == dim.size:
        return Factor(1), dim
    quotient = exact_quotient(dim.size, size)
    if quotient is None:
        return None
    major, minor = Factor(quotient), Factor(size)
    return (major, minor) if unify(dim, Product((major, minor)), why) else None


def _blocked(dims: Iterable[Dim], why: Block) -> bool:
    for dim in dims:
        block(dim, why)
    return False
