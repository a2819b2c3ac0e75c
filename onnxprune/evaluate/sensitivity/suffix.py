"""The suffix of a network behind a cut, as a small network for each set of removed channels.

Removed channels are cut off, not only masked: there is less to compute then. But onnxruntime's convolutions
work on blocks of channels and are slow on any other number, so the kept channels are filled up to whole
blocks with removed ones, which are masked. Both are exact, together as alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import onnx

from onnxprune.algebra.axes import Factor, Product, factors, resolve
from onnxprune.analysis.groups.channels import Channels, Group, cuts_inexactly
from onnxprune.decisions.blocks import without_blocks
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.remaining_statistics import over_remaining
from onnxprune.evaluate.sensitivity.cut import Cut, cuts, extract
from onnxprune.evaluate.sensitivity.refit import Refit
from onnxprune.ir import Model
from onnxprune.support.mapped import byte_count

Removed = Mapping[str, Sequence[int]]

BLOCK = 16
"""Channels in a block: 16 with AVX-512, 8 without."""
_LARGE_BYTES = 1 << 16


class Suffixes:
    """A network, to be cut before one group after another.

    Args:
        channels: The network.
        refit: The layers that are fitted anew where they read removed channels; ``None`` for none.
    """

    def __init__(self, channels: Channels, refit: Refit | None = None) -> None:
        self.channels, self.refit = channels, refit

    def cuts(self, stops: Sequence[Collection[str]]) -> list[Cut]:
        """Return for each collection of groups and blocks the cut before all tensors of these."""
        carriers = {g.name: self._carriers[g.factor] for g in self.channels.groups}
        carriers |= {b.name: list(b.weights) for b in self.channels.blocks.removable}
        inputs = {i.name for i in self.channels.model.inputs}
        changing = [{name for group in groups for name in carriers[group]} - inputs for groups in stops]
        return cuts(self.channels.model, self.channels.typing.shapes, changing)

    def model(self, at: Cut, removed: Removed) -> Model:
        """Return the part behind the cut, without some channels.

        Args:
            at: The cut, before all of those channels.
            removed: The channels by group name.
        """
        shapes = self.channels.typing.shapes
        channels = self._light.arranged_where(removed)
        bare = masked(channels, removed)
        if self.refit is not None:
            self.refit.apply(channels, removed, bare)
        gone = self._in_blocks(removed)
        if cuts_inexactly(channels, removed):
            bare = over_remaining(bare, channels, removed)
        elif gone:
            bare = shrunk(replace(channels, model=bare), gone, at_readers=True)
        bare = without_blocks(bare, channels.removed_blocks(removed))
        return extract(bare, shapes, at.reached, at.carried, self._heavy)

    def _in_blocks(self, removed: Removed) -> dict[str, list[int]]:
        """Return the channels to cut off, such that whole blocks of each group remain."""
        groups = {g.name: g for g in self.channels.groups}
        found = {}
        for name, gone in removed.items():
            if name in self.channels.shared or name not in groups:
                continue
            block = self._block(groups[name])
            left = groups[name].size - len(gone)
            count = groups[name].size - math.ceil(left / block) * block
            if count > 0:
                found[name] = sorted(gone)[:count]
        return found

    def _block(self, group: Group) -> int:
        """Return of how many channels a block consists; an axis may have several places for each channel."""
        axes = (resolve(self.channels.typing.axes[p.tensor][p.axis]) for p in group.places)
        places = math.gcd(*(d.count // group.size if isinstance(d, Product) else 1 for d in axes))
        return BLOCK // math.gcd(BLOCK, places)

    @cached_property
    def _carriers(self) -> dict[Factor, list[str]]:
        """All tensors that a group's channels lie on, by the variable of the group."""
        free = {g.factor for g in self.channels.groups}
        found: dict[Factor, list[str]] = {factor: [] for factor in free}
        for name, dims in self.channels.typing.axes.items():
            for factor in {f for dim in dims for f in factors(dim)} & free:
                found[factor].append(name)
        return found

    @cached_property
    def _heavy(self) -> dict[str, onnx.TensorProto]:
        """The large constants that no removal changes: they need not be copied for every variant."""
        model, typing = self.channels.model, self.channels.typing
        changing = {p.tensor for g in self.channels.groups for p in g.places}
        changing |= {typing.nodes[r.node].input[r.operand] for r in typing.rescales if r.operand is not None}
        changing |= {name for b in self.channels.blocks.removable for name in b.weights}
        changing |= self.refit.tensors if self.refit is not None else set()
        tensors = (t for t in model.proto.graph.initializer if t.name not in changing)
        return {t.name: t for t in tensors if byte_count(t) > _LARGE_BYTES}

    @cached_property
    def _light(self) -> Channels:
        """The network with those constants empty, and without the shapes of inner tensors."""
        model = self.channels.model.copy()
        del model.proto.graph.value_info[:]
        for tensor in model.proto.graph.initializer:
            if tensor.name in self._heavy:
                empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                tensor.CopyFrom(empty)
        return replace(self.channels, model=model)
