"""Liveness of channels: dead channels found in the weights, zeroed by any tool.

A channel is removable if every sum over it stays the same without it: its term is zero, because the channel
is or because no remaining channel reads it; or it is a constant, which a bias can hold. Where a constant
channel does not add a constant (a convolution that pads with zeros), its columns can still be added to those
of another constant channel, which is padded in the same way: of several such channels one remains, their
absorber. The absorber may differ from node to node, for each has to have another value than zero there.

The channels that remain keep their values after any removal. So each channel is tested by itself, and
again when channels that read it have been removed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnxprune.algebra.axes import Dim, Factor, factors, resolve
from onnxprune.algebra.kept_axes import is_counted
from onnxprune.analysis.evidence.constant_propagation import (
    Constants,
    Mask,
    Matrices,
    channels_on,
    channels_where,
    find_constants,
)
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.ir import label
from onnxprune.ops.axes import Contraction
from onnxprune.ops.axes.constant_rules import Array

LAST = "nothing needs any channel of this axis, and one of them has to stay"
ABSORBING = "a constant channel stays, to which others are added"
SHARED = "its weights are not its own, so that no constant can be moved into them"
NO_BIAS = "it sums over a constant, and has no bias of the kind that could hold it"
PATTERN = "its operand is known, but not the same everywhere"
LOST = "its operand is a constant, its result is not known to be one"


@dataclass(frozen=True)
class Remainder:
    """Channels that are constant where they are made, and stay all the same.

    Attributes:
        group: Name of the group.
        channels: Number of channels.
        node: The node that keeps them.
        operator: Its operator.
        reason: The reason, in words.
    """

    group: str
    channels: int
    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class LinearProduct:
    """A linear node, as one factor that it sums over needs it.

    Attributes:
        node: Its index.
        matrices: Its weights.
        data: Known values of its data at each place of the axis it sums over, ``NaN`` where unknown.
        ways: The channel of the factor at each of those places, −1 where it has none (see `channels_on`).
        own: True if its weights are a constant without other readers, and a place has one channel.
    """

    node: int
    matrices: Matrices
    data: Array
    ways: Sequence[Array]
    own: bool

    @property
    def groups(self) -> Array:
        """The matrix that reads each place."""
        numbers: Array = np.arange(len(self.data)) // self.matrices.reads.shape[2]
        return numbers

    def place(self, channel: int, group: int, there: Mask) -> int:
        """Return where one of the matrices reads a channel, the largest of several places."""
        there = (self.columns == channel) & (self.groups == group) & there
        return int(np.argmax(np.where(there, np.abs(self.data), -1.0)))

    @property
    def even(self) -> bool:
        """Return whether a bias can hold the contributions of constant channels."""
        return not self.matrices.linear.uneven

    def channels(self, holds: Mask, factor: Factor) -> Mask:
        """Return the channels at all of whose places a flag holds."""
        return channels_where(holds, self.ways, factor)

    @property
    def columns(self) -> Array:
        """The channel at each place, where it has but one."""
        return self.ways[0]


@dataclass
class LivenessEvidence:
    """Dead channels, and the constants that replace them.

    Attributes:
        channels: The groups of the network.
        constants: Values in it that no input changes.
        removed: Removed channels by group name, ascending; groups that lose none are left out.
        absorbers: Places on the summed axis where columns of removed channels are added, by node and matrix.
        left: Constant channels that stay.
    """

    channels: Channels
    constants: Constants = field(repr=False)
    removed: dict[str, list[int]]
    absorbers: dict[tuple[int, int], int]
    left: list[Remainder]


def find_evidence(channels: Channels) -> LivenessEvidence:
    """Find the channels a network would not miss."""
    search = _Search(channels, find_constants(channels.typing))
    while search.step():
        pass
    removed = {g.name: np.flatnonzero(search.gone[g.factor]).tolist() for g in channels.groups}
    left = [remainder for group in channels.groups for remainder in _remainders(search, group)]
    return LivenessEvidence(
        channels, search.constants, {n: r for n, r in removed.items() if r}, search.absorbers, left
    )


class _Search:
    """The removed channels, and the tests of the others without them."""

    def __init__(self, channels: Channels, constants: Constants) -> None:
        self.channels, self.constants = channels, constants
        self.gone = {g.factor: np.zeros(g.size, bool) for g in channels.groups}
        self.absorbers: dict[tuple[int, int], int] = {}
        self.pinned = {g.factor: np.zeros(g.size, bool) for g in channels.groups}
        self.products: dict[Factor, list[LinearProduct]] = defaultdict(list)
        self.sums: dict[Factor, list[Contraction]] = defaultdict(list)
        self.makers: dict[Factor, list[int]] = defaultdict(list)
        for index, node in enumerate(channels.typing.nodes):
            for factor in constants.factors_of(node.output[0]) & set(self.gone) if node.output else ():
                self.makers[factor].append(index)
        readers = Counter(i for node in channels.typing.nodes for i in node.input)
        for contraction in channels.typing.contractions:
            for factor in set(factors(contraction.dim)) & set(self.gone):
                matrices = constants.matrices(contraction.node)
                if matrices is None:
                    self.sums[factor].append(contraction)
                else:
                    self.products[factor].append(self._product(contraction.node, matrices, factor, readers))

    def _product(
        self, index: int, matrices: Matrices, factor: Factor, readers: Mapping[str, int]
    ) -> LinearProduct:
        typing, linear = self.channels.typing, matrices.linear
        node = typing.nodes[index]
        data, weights = node.input[linear.data], node.input[linear.weights]
        ways = channels_on(typing.axes[data][linear.axis], factor)
        plain = weights in typing.model.constants and weights not in typing.quantised and len(ways) == 1
        own = plain and readers[weights] == 1
        return LinearProduct(index, matrices, self.constants.along(data, linear.axis), ways, own)

    def step(self) -> bool:
        """Test every group once, the last ones first; return whether a channel was found."""
        before = sum(int(g.sum()) for g in self.gone.values())
        for group in reversed(self.channels.groups):
            self.gone[group.factor] = self._removable(group.factor)
        return before < sum(int(g.sum()) for g in self.gone.values())

    def _removable(self, factor: Factor) -> Mask:
        """Return the removed channels and those removable without them; one of all stays."""
        outright, absorbed = self.removable(factor)
        self._choose_absorbers(factor, absorbed & ~outright)
        gone = self.gone[factor]
        removable = ((outright | absorbed) & ~self.pinned[factor]) | gone
        if removable.all():
            removable[np.flatnonzero(~gone)[0]] = False
        return removable

    def removable(self, factor: Factor) -> tuple[Mask, Mask]:
        """Return which channels are removable, and which only if another one inherits their columns."""
        outright = np.ones(factor.count, bool)
        for contraction in self.sums[factor]:
            outright &= self.zero(contraction, factor)
        absorbed = outright.copy()
        for product in self.products[factor]:
            free = (product.data == 0) | ~self._read(product)
            known = ~np.isnan(product.data)
            outright &= product.channels(free | (known & product.even), factor)
            absorbed &= product.channels(free | (known & (product.even or product.own)), factor)
        return outright, absorbed

    def zero(self, contraction: Contraction, factor: Factor) -> Mask:
        """Return at which channels one of the operands of a sum is zero, in its remaining elements."""
        zero, axes = np.zeros(factor.count, bool), self.channels.typing.axes
        for name in contraction.tensors:
            cut = [k for k, dim in enumerate(axes[name]) if is_counted(dim) and self._loses(dim)]
            remaining = {k: self._remaining(name, k, factor) for k in cut}
            summed = [k for k, d in enumerate(axes[name]) if resolve(d) == resolve(contraction.dim)]
            if contraction.axis is not None and name == contraction.tensors[0]:
                summed = [contraction.axis]
            found = self.constants.zero_channels(name, factor, remaining, summed or None)
            zero |= found if found is not None else False
        return zero

    def _read(self, product: LinearProduct) -> Mask:
        """Return which places of the axis some row that remains multiplies with other than zero."""
        linear, reads = product.matrices.linear, product.matrices.reads
        result = self.channels.typing.nodes[product.node].output[0]
        rows = self._remaining(result, linear.result_axis)
        read: Mask = np.any(reads & rows.reshape(len(reads), -1, 1), axis=1).reshape(-1)
        return read

    def _loses(self, dim: Dim) -> bool:
        """Return whether an axis has lost elements so far."""
        return any(factor in self.gone and self.gone[factor].any() for factor in factors(dim))

    def _remaining(self, name: str, axis: int, besides: Factor | None = None) -> Mask:
        """Return which indices of an axis remain after the removals so far, channels of one factor aside."""
        dim = self.channels.typing.axes[name][axis]
        remaining: Mask = np.ones(dim.count, bool)
        for factor in set(factors(dim)) & set(self.gone) - {besides}:
            for channels in channels_on(dim, factor) if self.gone[factor].any() else ():
                remaining &= ~np.where(channels >= 0, self.gone[factor][channels], False)
        return remaining

    def _choose_absorbers(self, factor: Factor, dying: Mask) -> None:
        """Find a channel that takes over others wherever one is needed, and keep as few as possible.

        Channels that stay anyway come first, then those that can take over at most places.
        """
        unabsorbed = dict(self._without_absorber(factor, dying))
        while unabsorbed:
            worth = np.stack(
                [self._magnitudes(product, factor, group) for product, group in unabsorbed.values()]
            )
            staying = (worth > 0) & ~(dying | self.gone[factor])
            worth = np.where(staying if staying.any() else dying, worth, 0.0)
            absorber = int(np.lexsort((worth.max(axis=0), (worth > 0).sum(axis=0)))[-1])
            for key, found in zip(list(unabsorbed), worth[:, absorber] > 0, strict=True):
                if found:
                    product, group = unabsorbed.pop(key)
                    self._appoint(key, product, product.place(absorber, group, self._known_places(product)))

    def _appoint(self, key: tuple[int, int], product: LinearProduct, place: int) -> None:
        """Make an index the absorber of others, and keep all channels that lie on it."""
        self.absorbers[key] = place
        for factor in set(factors(self._axis(product))) & set(self.gone):
            for channels in channels_on(self._axis(product), factor):
                if channels[place] >= 0:
                    self.pinned[factor][channels[place]] = True

    def _axis(self, product: LinearProduct) -> Dim:
        """Return the axis that a product sums over."""
        typing, linear = self.channels.typing, product.matrices.linear
        return typing.axes[typing.nodes[product.node].input[linear.data]][linear.axis]

    def _known_places(self, product: LinearProduct) -> Mask:
        """Return the places of that axis that remain and whose values are known."""
        linear = product.matrices.linear
        data = self.channels.typing.nodes[product.node].input[linear.data]
        there: Mask = self._remaining(data, linear.axis) & ~np.isnan(product.data)
        return there

    def _without_absorber(
        self, factor: Factor, dying: Mask
    ) -> Iterator[tuple[tuple[int, int], tuple[LinearProduct, int]]]:
        """Yield the nodes and matrices in which channels need an absorber that has not been found yet."""
        for product in (p for p in self.products[factor] if p.own and not p.even):
            needed = (
                (product.data != 0)
                & self._read(product)
                & self._known_places(product)
                & (product.columns >= 0)
            )
            for group in np.unique(product.groups[needed & dying[product.columns]]).tolist():
                if (product.node, group) not in self.absorbers:
                    yield (product.node, group), (product, group)

    def _magnitudes(self, product: LinearProduct, factor: Factor, group: int) -> Array:
        """Return the magnitude of each channel where a matrix reads it; 0 where it cannot be an absorber."""
        worth = np.zeros(factor.count)
        there = (product.groups == group) & (product.columns >= 0) & self._known_places(product)
        np.maximum.at(worth, product.columns[there], np.abs(product.data[there]))
        return worth


def _remainders(search: _Search, group: Group) -> list[Remainder]:
    """Record the reasons of constant channels that stay."""
    reasons: Counter[tuple[str, str, str]] = Counter()
    staying = ~search.gone[group.factor]
    for index, reason, channels in _hindrances(search, group.factor):
        node = search.channels.typing.nodes[index]
        if count := int((channels & staying).sum()):
            reasons[label(node), node.op_type, reason] += count
            staying = staying & ~channels
    return [Remainder(group.name, n, *where) for where, n in reasons.items()]


def _hindrances(search: _Search, factor: Factor) -> Iterator[tuple[int, str, Mask]]:
    """Yield nodes, why they keep constant channels of a factor, and which."""
    outright, absorbed = search.removable(factor)
    for product in search.products[factor]:
        absorbers = [place for (node, _), place in search.absorbers.items() if node == product.node]
        yield (
            product.node,
            ABSORBING,
            absorbed & np.isin(np.arange(factor.count), product.columns[absorbers]),
        )
    known = [p.channels(~np.isnan(p.data), factor) for p in search.products[factor]]
    constant: Mask = np.all(known, axis=0) if known else np.zeros(factor.count, bool)
    for product in search.products[factor]:
        if not product.even and not product.own:
            yield product.node, SHARED, constant & ~outright
    for product, uniform in zip(search.products[factor], known, strict=True):
        node = search.channels.typing.nodes[product.node]
        pattern = search.constants.constant_channels(node.input[product.matrices.linear.data], factor)
        if pattern is not None:
            yield product.node, PATTERN, pattern & ~uniform
    for contraction in search.sums[factor]:
        for name in (n for n in contraction.tensors if n in search.constants.known):
            held = search.constants.constant_channels(name, factor)
            if held is not None:
                yield contraction.node, NO_BIAS, held & ~search.zero(contraction, factor)
    if outright.any() and search.products[factor]:
        yield search.products[factor][0].node, LAST, outright
    yield from _losses(search, factor)


def _losses(search: _Search, factor: Factor) -> Iterator[tuple[int, str, Mask]]:
    """Yield the nodes that are given constants, or zeros for weights, and whose result is not known."""
    for index in search.makers[factor]:
        node = search.channels.typing.nodes[index]
        result = search.constants.constant_channels(node.output[0], factor)
        if result is None or node.output[0] in search.channels.model.constants:
            continue
        data = [i for i in node.input if i and not _is_list(search, i)]
        operands = [search.constants.constant_channels(i, factor) for i in data]
        given = [o for o in operands if o is not None]
        varying = [i for i in data if not search.constants.is_fixed(i)]
        carried = any(factor in search.constants.factors_of(i) for i in varying)
        lost: Mask = np.all(given, axis=0) if carried else search.constants.dead_filters(node, factor)
        matrices = search.constants.matrices(index)
        yield index, (matrices.linear.uneven if matrices else "") or LOST, lost & ~result


def _is_list(search: _Search, name: str) -> bool:
    """Return whether a tensor holds indices into another one."""
    return search.channels.typing.shapes.types.get(name) == onnx.TensorProto.INT64
