"""Freedom of a group: factors along which channels can be chosen independently.

A grouped convolution carries ``(g c)``: the ``c`` of one of its groups are never mixed with the same ``c`` of
another. Where that holds throughout, numbering the channels of ``c`` anew within each ``g``, in all tensors
alike, changes only the order of sums. So each ``g`` may keep other channels, as long as it keeps as
many. The same goes for the width of heads whose queries, keys and values are projected head by head.

A factor is *free within* others if every tensor that carries it carries those too, for every one of its
elements and once only, so do the terms of every sum over it, and no node mixes elements along those others
while its tensors carry the factor. (A term of ``x·xᵀ`` has two indices of the heads, each tensor but one.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from onnxprune.algebra.axes import Dim, Factor, Mirror, Sum, factors, resolve
from onnxprune.ops.axes import Typing
from onnxprune.ops.axes.variables import summed_space

Outer = tuple[Factor, ...]


def freedoms(typing: Typing, carriers: dict[Factor, list[str]]) -> dict[Factor, Outer]:
    """Return the factors that others are free within; those that are free within none are left out.

    Two factors that would be free within each other are not both renumbered: the first keeps its freedom.

    Args:
        typing: The axes of all tensors.
        carriers: For each factor the constants that carry it, the more important factors first.
    """
    candidates = {f: _shared(f, (typing.axes[t] for t in tensors)) for f, tensors in carriers.items()}
    candidates = {f: outer for f, outer in candidates.items() if outer}
    if not candidates:
        return {}
    everywhere = _everywhere(typing, candidates)
    spaces = _summed_over(typing, candidates)
    candidates = {
        f: o & _shared(f, [*(typing.axes[t] for t in everywhere[f]), *spaces[f]])
        for f, o in candidates.items()
    }
    for factor, mixed in _mixed(typing, {f: everywhere[f] for f, o in candidates.items() if o}):
        candidates[factor] -= mixed
    ordered = _ordered({f: o for f, o in candidates.items() if o})
    return {f: _as_they_lie(typing.axes[carriers[f][0]], outer) for f, outer in ordered.items()}


def companions(dims: Sequence[Dim], factor: Factor) -> Iterator[set[Factor]]:
    """Yield, for each place of a factor in a tensor, the factors that every element there has an index of."""
    carrying = [k for k, dim in enumerate(dims) if factor in factors(dim)]
    for axis in carrying:
        others = [f for k, dim in enumerate(dims) if k != axis for f in _parts(dim)]
        for beside in _beside(dims[axis], factor):
            counts = Counter([*beside, *others])
            alone = len(carrying) == 1 and factor not in counts
            yield {f for f, count in counts.items() if count == 1 and alone}


def _shared(factor: Factor, tensors: Iterable[Sequence[Dim]]) -> set[Factor]:
    """Return the companions that a factor has in all of some tensors."""
    found: set[Factor] | None = None
    for dims in tensors:
        for here in companions(dims, factor):
            found = here if found is None else found & here
            if not found:
                return set()
    return found or set()


def _parts(dim: Dim) -> list[Factor]:
    """Return the factors that every element of an axis has an index of."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return [dim]
    return [] if isinstance(dim, Sum | Mirror) else [p for p in dim.parts if isinstance(p, Factor)]


def _beside(dim: Dim, factor: Factor, beside: Sequence[Factor] = ()) -> Iterator[Sequence[Factor]]:
    """Yield, for each place of a factor in an axis, the factors it is nested with."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        if dim is factor:
            yield beside
    elif isinstance(dim, Sum):
        for part in dim.parts:
            yield from _beside(part, factor, beside)
    elif isinstance(dim, Mirror):
        yield from [()] * factors(dim).count(factor)  # in an order of its own: free within none
    else:
        for k, part in enumerate(dim.parts):
            others = [p for j, p in enumerate(dim.parts) if j != k and isinstance(p, Factor)]
            yield from _beside(part, factor, [*beside, *others])


def _everywhere(typing: Typing, required: Iterable[Factor]) -> dict[Factor, set[str]]:
    """Return all tensors that carry each of some factors."""
    found: dict[Factor, set[str]] = {f: set() for f in required}
    for name, dims in typing.axes.items():
        for factor in {f for dim in dims for f in factors(dim)}.intersection(found):
            found[factor].add(name)
    return found


def _summed_over(typing: Typing, required: Iterable[Factor]) -> dict[Factor, list[Sequence[Dim]]]:
    """Return the indices of the terms of every sum over each of some factors."""
    found: dict[Factor, list[Sequence[Dim]]] = {f: [] for f in required}
    for contraction in typing.contractions:
        for factor in set(factors(contraction.dim)).intersection(found):
            found[factor].append(summed_space(typing, contraction))
    return found


def _mixed(typing: Typing, carriers: dict[Factor, set[str]]) -> Iterator[tuple[Factor, set[Factor]]]:
    """Yield the factors along which some node mixes elements of tensors that carry another.

    A sum over both at once is the same in any order; one over the outer factor alone, which leaves the inner
    one standing, is not.
    """
    nodes = typing.nodes
    sums = [(s.node, s.dim, False) for s in typing.contractions]
    for index, dim, anywhere in [*sums, *((n, d, True) for n, d in typing.mixes)]:
        over = set(factors(dim))
        node = nodes[index]
        touched = {*node.output, *node.input} if anywhere else set(node.output)
        for factor, tensors in carriers.items():
            if factor not in over and not tensors.isdisjoint(touched):
                yield factor, over


def _ordered(candidates: dict[Factor, set[Factor]]) -> dict[Factor, set[Factor]]:
    """Let no two factors be free within each other, whether at once or in a ring."""
    done: dict[Factor, set[Factor]] = {}
    for factor, outer in candidates.items():
        inside = {f for f in done if factor in _reached(done, f)}
        if left := outer - inside:
            done[factor] = left
    return done


def _reached(within: dict[Factor, set[Factor]], start: Factor) -> set[Factor]:
    """Return the factors that one is free within, those that these are free within, and so on."""
    found: set[Factor] = set()
    pending = [start]
    while pending:
        new = within.get(pending.pop(), set()) - found
        found |= new
        pending.extend(new)
    return found


def _as_they_lie(dims: Sequence[Dim], required: set[Factor]) -> Outer:
    """Return factors in the order in which a tensor has them."""
    return tuple(f for f in dict.fromkeys(f for dim in dims for f in factors(dim)) if f in required)
