"""Reach: the share of parameters and MACs that lies on removable channels, and the rest.

A weight that no rule takes for one, for example behind an unknown operator, is on no group and on no
list of blocked axes. Here it is listed all the same, with the reason; nodes of unknown work are too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxprune.algebra.axes import Block, factors
from onnxprune.algebra.kept_axes import at_numbers
from onnxprune.analysis.groups.channels import BlockedAxis, Channels
from onnxprune.analysis.groups.cost import PARAMETERS, cost_of
from onnxprune.ir import label
from onnxprune.ops.axes import Typing
from onnxprune.ops.axes.estimates import may_work

UNFOLLOWED = "it does not take this for a weight"


@dataclass(frozen=True)
class Reach:
    """Fractions of a network that lie on removable channels.

    Attributes:
        params: Fraction of its parameters.
        macs: Fraction of its multiply-accumulates.
        counting: Parts that the number of multiply-accumulates leaves out or takes for granted.
    """

    params: float
    macs: float
    counting: Counting

    @property
    def uncounted(self) -> tuple[Block, ...]:
        """Return the nodes whose multiply-accumulates are not known, and why."""
        return self.counting.uncounted


@dataclass(frozen=True)
class Counting:
    """Limits of the number of multiply-accumulates.

    Attributes:
        uncounted: Nodes whose multiply-accumulates are not known or counted in part, and why.
        assumed: The fraction of the number that depends on sizes known from the data only.
        sizes: Those sizes, with the numbers they are counted with.
    """

    uncounted: tuple[Block, ...]
    assumed: float
    sizes: Mapping[str, int]

    def facts(self) -> dict[str, Any]:
        """Return the same, ready for JSON."""
        return {
            "uncounted": [asdict(block) for block in self.uncounted],
            "macs_assumed": self.assumed,
            "assumed_sizes": dict(self.sizes),
        }


def reach_of(channels: Channels) -> Reach:
    """Return the share of a network on its groups, optional ones included."""
    cost = cost_of(channels)
    gone = {group.factor: 0 for group in channels.groups}
    shares = [1 - p.value(gone) / total if (total := p.value()) else 0.0 for p in (cost.params, cost.macs)]
    return Reach(shares[0], shares[1], counting_of(channels))


def counting_of(channels: Channels) -> Counting:
    """Return the parts that a network's number of multiply-accumulates leaves out or takes for granted."""
    typing = channels.typing
    chosen = set(typing.shapes.analysis.symbols)
    sizes: dict[str, int] = {}
    assumed = total = 0
    for work in typing.work:
        number = math.prod(at_numbers(dim, typing.shapes.number).count for dim in work.dims)
        assumed_symbols = {
            s for dim in work.dims if not isinstance(dim.size, int) for s in dim.size.symbols
        } - chosen
        sizes |= {symbol: typing.shapes.reference[symbol] for symbol in assumed_symbols}
        total += number
        assumed += number if assumed_symbols else 0
    return Counting(_uncounted(typing), assumed / total if total else 0.0, dict(sorted(sizes.items())))


def staying_axes(channels: Channels) -> list[BlockedAxis]:
    """Return all axes of weights that stay, wholly or in part: those that no rule follows too."""
    return [*channels.blocked, *unfollowed_weights(channels)]


def unfollowed_weights(channels: Channels) -> list[BlockedAxis]:
    """Return the axes of weights that are on no group and not listed as blocked, and why that is."""
    typing = channels.typing
    listed = {axis.tensor for axis in channels.blocked} | {
        p.tensor for g in channels.groups for p in g.places
    }
    found = []
    for name, readers in _readers(typing).items():
        tensor = channels.model.constants[name]
        if name not in listed and tensor.data_type in PARAMETERS:
            found += [
                BlockedAxis(name, axis, size, _reasons(typing, name, axis, readers))
                for axis, size in enumerate(tensor.dims)
                if size > 1
            ]
    return found


def _readers(typing: Typing) -> dict[str, list[int]]:
    """Return the numbers of the nodes that read each constant."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(typing.nodes):
        for name in dict.fromkeys(node.input):
            if name in typing.model.constants:
                found[name].append(index)
    return found


def _reasons(typing: Typing, name: str, axis: int, readers: Sequence[int]) -> tuple[Block, ...]:
    """Return why an axis of a weight stays: its blocks, or the readers that state no axes for it."""
    dims = typing.axes.get(name)
    known = [b for f in factors(dims[axis]) for b in f.blocks] if dims else []
    refused = [_block(typing, k, typing.refused[k]) for k in readers if k in typing.refused]
    found = known or refused or [_block(typing, readers[0], UNFOLLOWED)]
    return tuple(dict.fromkeys(found))


def _uncounted(typing: Typing) -> tuple[Block, ...]:
    """Return the nodes without a rule whose work does not follow from their sizes either.

    Loops whose turns are not known are among them: their bodies are counted once.
    """
    counted = {work.node for work in typing.work}
    unknown = {
        index: reason
        for index, reason in typing.refused.items()
        if index not in counted and may_work(typing, typing.nodes[index])
    }
    return tuple(_block(typing, k, reason) for k, reason in sorted((unknown | typing.uncounted).items()))


def _block(typing: Typing, index: int, reason: str) -> Block:
    node = typing.nodes[index]
    return Block(label(node), node.op_type, reason)
