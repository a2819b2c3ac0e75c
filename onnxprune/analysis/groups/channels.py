"""Groups: the sets of coupled channels of a network, and the nodes and tensors that carry them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import TopologicalSorter
from math import prod
from typing import Any, TypeAlias, TypeVar

import numpy as np

from onnxprune.algebra.axes import Block, Dim, Factor, Product, block, factors, resolve
from onnxprune.algebra.kept_axes import is_counted, kept_indices, shrinks_evenly
from onnxprune.analysis.groups.arrangement import Arrangement, members, order_of
from onnxprune.analysis.groups.blocks import PREFIX, ResidualBlock, ResidualBlocks, find_blocks
from onnxprune.analysis.groups.freedom import Outer, freedoms
from onnxprune.analysis.groups.integers import settle_integers
from onnxprune.analysis.groups.zeros import block_inexact_sums
from onnxprune.analysis.shapes import Shapes
from onnxprune.decisions.rotation import Rotation
from onnxprune.ir import Model, analysis, label, merged
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.ops.axes import RESULT, Inexact, Typing, infer_axes

Indices = np.ndarray[Any, np.dtype[np.intp]]
T = TypeVar("T")
Values = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class AxisRef:
    """One axis of one constant tensor.

    Attributes:
        tensor: Name of the tensor.
        axis: Number of the axis.
        weight: True if masking sets the tensor to zero there; otherwise it is only cut.
    """

    tensor: str
    axis: int
    weight: bool


@dataclass(frozen=True, eq=False)
class Group:
    """Coupled channels.

    Attributes:
        name: The node that makes them first.
        size: Number of channels.
        places: Every axis of a constant they lie on.
        nodes: Names of all nodes whose weights they touch.
        optional: One of two factors of a product whose other factor is pruned unless the user names this one;
            not where the basis of the axis has been chosen for cuts.
        factor: The variable of the axis algebra.
        outer: Factors in each element of which the channels are counted apart (see `Channels.apart`).
    """

    name: str
    size: int
    places: tuple[AxisRef, ...]
    nodes: tuple[str, ...]
    optional: bool
    factor: Factor = field(repr=False)
    outer: Outer = field(default=(), repr=False)


Prunable: TypeAlias = "Group | ResidualBlock"
"""A choice of a plan: the width of a group, or a block that is there or not."""


@dataclass(frozen=True)
class BlockedAxis:
    """An axis of a weight that must stay as it is, and why."""

    tensor: str
    axis: int
    size: int
    reasons: tuple[Block, ...]


@dataclass(frozen=True)
class Channels:
    """The groups of a network.

    Attributes:
        model: The network in canonical form, which all names refer to.
        typing: The axes of all its tensors.
        groups: Groups that can be pruned, in order of execution.
        blocked: Axes that cannot.
        arrangements: Groups that lose other channels in each element of their outer factors (see
            `freedoms`), by name. Removed channels are then slots (see `arrangement`). The groups that a
            group is arranged within stand after it.
    """

    model: Model
    typing: Typing = field(repr=False)
    groups: tuple[Group, ...]
    blocked: tuple[BlockedAxis, ...]
    arrangements: Mapping[str, Arrangement] = field(default_factory=dict, repr=False)

    @cached_property
    def freedoms(self) -> dict[str, Outer]:
        """The factors that groups are free within, by group name: there each element may keep other channels.

        Groups that are free within none are left out.
        """
        ordered = sorted(self.groups, key=lambda g: g.optional)
        carriers = {g.factor: [p.tensor for p in g.places] for g in ordered if g.name not in self.shared}
        found = freedoms(self.typing, carriers)
        return {g.name: found[g.factor] for g in self.groups if g.factor in found}

    @cached_property
    def shared(self) -> frozenset[str]:
        """The groups that inputs or outputs lie on, by name: callers of the network have to cut them too."""
        values = (*self.model.inputs, *self.model.outputs)
        outside = {f for v in values for d in self.typing.axes.get(v.name, ()) for f in factors(d)}
        outside |= set(factors(self.typing.rows)) if self.typing.rows is not None else set()
        return frozenset(g.name for g in self.groups if g.factor in outside)

    @property
    def blocks(self) -> ResidualBlocks:
        """The residual branches of the network. A removed one is element 0 of a group of one, by its name."""
        found: ResidualBlocks | None = self.typing.derived.get("blocks")
        if found is None:
            found = self.typing.derived["blocks"] = find_blocks(self.typing)
        return found

    @property
    def prunable(self) -> list[Prunable]:
        """All groups, then all residual blocks that can be removed."""
        return [*self.groups, *self.blocks.removable]

    def removed_blocks(self, removed: Mapping[str, Sequence[int]]) -> list[ResidualBlock]:
        """Return the residual branches that are removed, in order of execution."""
        if not any(name.startswith(PREFIX) for name in removed):
            return []
        return [block for block in self.blocks.removable if len(removed.get(block.name, ()))]

    def derived(self, name: str, compute: Callable[[], T]) -> T:
        """Return a result of model, axes and groups alone, computed once for all arrangements."""
        key = (name, id(self.model), id(self.groups))
        if key not in self.typing.derived:
            self.typing.derived[key] = (compute(), self.model, self.groups)  # so that no other has their ids
        found: T = self.typing.derived[key][0]
        return found

    def apart(self, group: Group) -> Group:
        """Return a group with its channels counted apart in each element of its outer factors.

        Its size is the number of all of them, the outer elements major; otherwise it is the group itself.
        """
        outer = self.freedoms.get(group.name, ())
        return replace(group, size=group.size * prod(g.size for g in outer), outer=outer)

    def members(self, group: Group, place: AxisRef) -> Indices:
        """Return the channel of each element of a tensor, −1 where it has none; it broadcasts against it."""
        return members(self.typing.axes[place.tensor], place.axis, group.factor, group.outer)

    def arranged(self, orders: Mapping[str, Indices]) -> Channels:
        """Return the same groups, some in an order of their own in each element of their outer factors.

        Args:
            orders: The channel in each slot by group name, ``[elements of the outer factors, channels]``.
        """
        factor = {g.name: g.factor for g in self.groups}
        made = {n: Arrangement(factor[n], self.freedoms[n], order) for n, order in orders.items()}
        inside = {n: [m for m, a in made.items() if factor[n] in a.outer] for n in made}
        inner_first = TopologicalSorter(inside).static_order()
        arranged = replace(self, arrangements={n: made[n] for n in inner_first})
        arranged.__dict__["freedoms"] = self.freedoms  # the axes are the same: no need to look again
        return arranged

    def without(self, rows: Mapping[str, Sequence[Sequence[int]]]) -> Channels:
        """Return the groups arranged so that some channels of each row lie in the slots of the first row's.

        Args:
            rows: Removed channels by group name, a row for each element of the group's outer factors.
        """
        sizes = {g.name: g.size for g in self.groups}
        return self.arranged({name: order_of(removed, sizes[name]) for name, removed in rows.items()})

    def arranged_where(self, removed: Mapping[str, Sequence[int]]) -> Channels:
        """Return the groups that lose channels arranged as they are, all others in their own order."""
        arrangements = {n: a for n, a in self.arrangements.items() if len(removed.get(n, ()))}
        return replace(self, arrangements=arrangements)

    def put_in_order(self, tensor: str, values: Values) -> Values:
        """Return a tensor shaped like a constant, its channels in the slots they are arranged in."""
        dims = self.typing.axes.get(tensor, ())
        present = {f for dim in dims for f in factors(dim)}
        for arrangement in self.arrangements.values():
            if arrangement.factor in present:
                values = arrangement.applied(dims, values)
        return values

    def put_back(self, tensor: str, values: Values) -> Values:
        """Undo `put_in_order`."""
        dims = self.typing.axes.get(tensor, ())
        present = {f for dim in dims for f in factors(dim)}
        for arrangement in reversed(tuple(self.arrangements.values())):
            if arrangement.factor in present:
                values = arrangement.undone(dims, values)
        return values

    def is_rearranged(self, tensor: str) -> bool:
        """Return whether `put_in_order` changes a tensor."""
        present = {f for dim in self.typing.axes.get(tensor, ()) for f in factors(dim)}
        return any(arrangement.factor in present for arrangement in self.arrangements.values())

    def kept(self, removed: Mapping[str, Sequence[int]]) -> dict[Factor, Indices]:
        """Return, for each factor that loses channels, those that remain; of a removed block none.

        Args:
            removed: Removed channels by group name.
        """
        chosen: dict[str, Prunable] = {g.name: g for g in self.groups}
        chosen |= {b.name: b for b in self.removed_blocks(removed)}
        return {
            chosen[name].factor: np.setdiff1d(np.arange(chosen[name].size), np.asarray(gone, np.intp))
            for name, gone in removed.items()
            if len(gone)
        }

    def cuts(self, kept: Mapping[Factor, Indices]) -> dict[str, dict[int, Indices]]:
        """Return which elements remain, for every axis of every constant that loses some."""
        return self._remaining(kept, lambda place: True)

    def masks(self, kept: Mapping[Factor, Indices]) -> dict[str, dict[int, Indices]]:
        """Return which elements masking leaves as they are, by constant that it changes and axis."""
        return self._remaining(kept, lambda place: place.weight)

    def _remaining(
        self, kept: Mapping[Factor, Indices], counts: Callable[[AxisRef], bool]
    ) -> dict[str, dict[int, Indices]]:
        places: dict[tuple[str, int], dict[Factor, Indices]] = defaultdict(dict)
        for group in self.groups:
            if group.factor in kept:
                for place in filter(counts, group.places):
                    places[place.tensor, place.axis][group.factor] = kept[group.factor]
        found: dict[str, dict[int, Indices]] = defaultdict(dict)
        for (tensor, axis), remaining in places.items():
            found[tensor][axis] = kept_indices(self.typing.axes[tensor][axis], remaining)
        return dict(found)

    def weight_tensors(self) -> set[str]:
        """Return the names of the constants that masking may set to zero."""
        return {p.tensor for g in self.groups for p in g.places if p.weight}


def find_channels(
    model: Model, *, allow_inexact: bool = False, given: Mapping[str, Sequence[int]] | None = None
) -> Channels:
    """Find all groups of a network.

    Args:
        model: A checked model.
        allow_inexact: Also open axes over which the network normalises: shortening them changes its results.
        given: Full input shapes to analyse with, by input name; symbolic axes get a likely size otherwise.

    Raises:
        ModelError: The shapes of the graph do not fit.
    """
    return _channels(model, allow_inexact, merged(given, model.sizes))


@analysis("channels")
def _channels(model: Model, allow_inexact: bool, given: Mapping[str, Sequence[int]]) -> Channels:
    """Find all groups; sizes that are given and those of the model are one argument."""
    return group_channels(*canonicalise(model, given), allow_inexact=allow_inexact)


def group_channels(
    model: Model, shapes: Shapes, *, allow_inexact: bool = False, open_io: Iterable[str] = ()
) -> Channels:
    """Find all groups of a network in canonical form whose shapes are known.

    Args:
        model: The network.
        shapes: Its sizes.
        allow_inexact: Also open axes over which the network normalises.
        open_io: Patterns over inputs and outputs whose axes may shrink, beside those noted in the model.
    """
    typing = infer_axes(model, shapes, allow_inexact=allow_inexact, open_io=open_io)
    settle_integers(typing)
    _block_moving_sizes(typing)
    _block_unplaced_parts(typing)
    block_inexact_sums(typing)
    groups = _groups(typing)
    return Channels(model, typing, groups, _blocked_axes(typing))


def cuts_inexactly(channels: Channels, removed: Mapping[str, Sequence[int]]) -> bool:
    """Return whether a plan shortens axes that the network normalises over, and so changes its results."""
    return bool(inexact_cuts(channels, removed))


def inexact_cuts(channels: Channels, removed: Mapping[str, Sequence[int]]) -> list[Inexact]:
    """Return the statistics over axes that a plan shortens."""
    gone = set(channels.kept(removed))
    return [found for found in channels.typing.inexact if gone.intersection(factors(found.dim))]


def _block_moving_sizes(typing: Typing) -> None:
    """Block factors whose count is mixed, at run time, with sizes that follow the input."""
    counted = [(u.node, u.dim) for u in typing.size_uses] + [(u.node, u.dim) for u in typing.rescales]
    for index, dim in counted:
        if not shrinks_evenly(dim):
            _block_free(typing, index, dim, "its size is a sum that follows the input")
    for use in typing.size_uses:
        if use.attribute is not None or use.operand == RESULT or use.element is None:
            continue
        node = typing.nodes[use.node]
        name = node.input[use.operand]
        listed = typing.shapes.integers(name)
        element = listed[use.element] if listed is not None else None
        if isinstance(element, int) or (element == use.dim.size and shrinks_evenly(use.dim)):
            continue
        _block_free(typing, use.node, use.dim, "it computes this size from the input's while it runs")


def _block_unplaced_parts(typing: Typing) -> None:
    """Block the parts of a constant's axis beside a part of open size: their first element is not known."""
    reason = "the size of a part beside it follows the input"
    for index, node in enumerate(typing.nodes):
        for name in node.input:
            if name not in typing.model.constants:
                continue
            for dim in typing.axes.get(name, ()):
                if not is_counted(dim):
                    _block_free(typing, index, dim, reason)


def _block_free(typing: Typing, index: int, dim: Dim, reason: str) -> None:
    node = typing.nodes[index]
    for factor in factors(dim):
        if factor.free:
            block(factor, Block(label(node), node.op_type, reason))


def _groups(typing: Typing) -> tuple[Group, ...]:
    places, makers = _places(typing)
    optional = _optional_factors(typing, list(places))
    rotation = Rotation.stored(typing.model.metadata())
    rotated = rotation.axes if rotation else ()
    names: set[str] = set()
    groups = []
    for factor, found in places.items():
        if not any(p.weight for p in found):
            continue
        name = _unique(makers[factor][0], names)
        nodes = tuple(dict.fromkeys(makers[factor]))
        is_optional = factor in optional and name not in rotated
        groups.append(Group(name, factor.count, tuple(found), nodes, is_optional, factor))
    return tuple(groups)


def _places(typing: Typing) -> tuple[dict[Factor, list[AxisRef]], dict[Factor, list[str]]]:
    """Return the constant axes of each free factor, and the nodes that read them, in order of execution."""
    places: dict[Factor, list[AxisRef]] = defaultdict(list)
    makers: dict[Factor, list[str]] = defaultdict(list)
    constants, seen = typing.model.constants, set()
    for index, node in enumerate(typing.nodes):
        for operand, name in enumerate(node.input):
            if name not in constants or name not in typing.axes:
                continue
            uses = typing.weight_uses.get(name, ())
            for axis, dim in enumerate(typing.axes[name]):
                for factor in dict.fromkeys(f for f in factors(dim) if f.free):
                    if (index, operand) in uses:
                        user = typing.users.get((index, operand), index)
                        makers[factor] += [label(typing.nodes[user]), label(node)]
                    if (name, axis, factor) not in seen:
                        masked = bool(uses) and name not in typing.spared.get(factor, ())
                        places[factor].append(AxisRef(name, axis, masked))
                        seen.add((name, axis, factor))
    return {f: p for f, p in places.items() if f in makers}, makers


def _optional_factors(typing: Typing, free: Sequence[Factor]) -> set[Factor]:
    """Find factors set back for the sake of another free factor of the same product.

    Where all of them are, the first one stays.
    """
    back = {f for dim in typing.secondary for f in factors(dim)}
    prunable = set(free)
    found: set[Factor] = set(factors(typing.rows)) if typing.rows is not None else set()
    for dims in typing.axes.values():
        for dim in map(resolve, dims):
            for product in _products(dim):
                parts = [f for f in dict.fromkeys(factors(product)) if f in prunable]
                behind = [f for f in parts if f in back]
                found.update(behind[1:] if behind == parts else behind)
    return found


def _products(dim: Dim) -> list[Product]:
    if isinstance(dim, Product):
        return [dim]
    return [] if isinstance(dim, Factor) else [p for part in dim.parts for p in _products(part)]


def _blocked_axes(typing: Typing) -> tuple[BlockedAxis, ...]:
    """List the weight axes of more than one element that must stay, wholly or in part, and why."""
    found = []
    for name, uses in typing.weight_uses.items():
        if name in typing.model.constants and name in typing.axes:
            for axis, dim in enumerate(typing.axes[name]):
                parts = factors(dim)
                reasons = [b for f in parts if f.size != 1 for b in f.blocks]
                if not reasons and dim.count > 1 and all(f.size == 1 for f in parts):
                    reasons = [_each_alone(typing, min(uses)[0])]
                if reasons:
                    found.append(BlockedAxis(name, axis, dim.count, tuple(dict.fromkeys(reasons))))
    return tuple(found)


def _each_alone(typing: Typing, index: int) -> Block:
    """Why an axis stays that is cut into its single channels: no part of an axis may become empty."""
    node = typing.nodes[index]
    return Block(label(node), node.op_type, "each of its channels is picked or cut off by itself")


def _unique(name: str, taken: set[str]) -> str:
    unique, count = name, 2
    while unique in taken:
        unique, count = f"{name}#{count}", count + 1
    taken.add(unique)
    return unique
