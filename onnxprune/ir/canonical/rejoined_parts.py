"""Tensors cut along an axis and joined again in order, read where they were before the cut.

``cat(x.chunk(4, 1), 1)``, ``stack(x.unbind(0))`` and a cache that is cut and joined are the tensor itself. A
cut at a place between the factors of an axis blocks that axis, though the whole has no such place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeAlias

import onnx

from onnxprune.algebra.sizes.algebra import Extent, is_nonnegative
from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import GraphIndex, Model, attributes, bodies, captured
from onnxprune.ops.spec import STANDARD_DOMAINS

_FAR = 2**31 - 1
"""Ends from which exporters mean the end of the axis, at any size."""
Place: TypeAlias = "Extent | tuple[str, int]"
"""A place in an axis: a number from the beginning, negative from the end, or the end of a part."""


@dataclass(frozen=True)
class Span:
    """Consecutive elements of a tensor along one axis.

    Attributes:
        source: The tensor.
        axis: The axis, not negative.
        places: The place where the span begins, those of cuts inside it, and the place where it ends.
        ordered: True if the places are known to ascend.
    """

    source: str
    axis: int
    places: tuple[Place, ...]
    ordered: bool = False

    def followed_by(self, other: Span) -> Span | None:
        """Return both spans as one, where the other begins at the end of this one."""
        same = (self.source, self.axis, self.places[-1]) == (other.source, other.axis, other.places[0])
        if not same:
            return None
        return replace(self, places=(*self.places, *other.places[1:]), ordered=self.ordered and other.ordered)

    def is_whole(self, size: Extent | None) -> bool:
        """Return true if the span has all elements of the axis, each once and in order.

        Args:
            size: The size of the axis, ``None`` where it is unknown.
        """
        if self.places[0] != 0 or self.places[-1] != _end(size):
            return False
        cuts = self.places[1:-1]
        return self.ordered or len(cuts) < 2 or _ascend(cuts)


def _end(size: Extent | None) -> Place:
    return _FAR if size is None else size


def _ascend(cuts: Sequence[Place]) -> bool:
    """Return true if places ascend at every size: all counted from the beginning, or all from the end."""
    numbers = [cut for cut in cuts if not isinstance(cut, tuple)]
    if len(numbers) != len(cuts) or not all(is_nonnegative(b - a) for a, b in pairwise(numbers)):
        return False
    return is_nonnegative(numbers[0]) or (isinstance(numbers[-1], int) and numbers[-1] < 0)


def read_whole(model: Model, shapes: Shapes) -> Model:
    """Return the model with tensors in the place of their rejoined parts; itself where there are none.

    Args:
        model: A checked model.
        shapes: Shapes and known values of its tensors.
    """
    index = model.index
    found = _Joins(shapes, index)
    for node in index.nodes:
        if node.op_type == "Concat" and node.domain in STANDARD_DOMAINS:
            found.visit(node)
    if not found.joined:
        return model
    model = model.copy()
    fixed = {o.name for graph in model.graphs for o in graph.output}
    fixed |= {name for node in model.all_nodes if not any(bodies(node)) for name in captured(node)}
    for node in model.all_nodes:
        joined = found.joined.get(node.output[0]) if node.op_type == "Concat" else None
        node.input[:] = [found.instead.get(name, name) for name in joined or node.input]
        if joined is not None and len(joined) == 1:
            node.op_type = "Identity"
            del node.attribute[:]
    return _without_identities(model, found.instead.keys() - fixed)


def _without_identities(model: Model, names: set[str]) -> Model:
    for graph in model.graphs:
        kept = [node for node in graph.node if not (node.op_type == "Identity" and node.output[0] in names)]
        del graph.node[:]
        graph.node.extend(kept)
    model.edited()
    return model


@dataclass
class _Joins:
    """The operands of the Concat nodes of a model, rejoined parts merged.

    Attributes:
        joined: New operands of each Concat that has fewer, by its result.
        instead: The tensor that each result with a single operand is equal to.
    """

    shapes: Shapes
    index: GraphIndex
    joined: dict[str, list[str]] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)

    def visit(self, node: onnx.NodeProto) -> None:
        """Merge the operands of a Concat; the nodes are visited in their order."""
        rank = len(self.shapes.sizes.get(node.output[0], ()))
        if not rank:
            return
        axis = int(attributes(node)["axis"]) % rank
        merged = self._merged([self._source(name) for name in node.input], axis)
        if len(merged) == len(node.input):
            return
        self.joined[node.output[0]] = merged
        if len(merged) == 1:
            self.instead[node.output[0]] = merged[0]

    def _source(self, name: str) -> str:
        return self.instead.get(name, name)

    def _merged(self, names: Sequence[str], axis: int) -> list[str]:
        """Return operands along an axis, each run that is a whole tensor as that tensor."""
        done: list[tuple[list[str], Span | None]] = []
        for name in names:
            part, span = [name], self._span(name, axis)
            while span is not None:
                before = done[-1][1] if done else None
                if before is not None and (both := before.followed_by(span)) is not None:
                    part, span = [*done.pop()[0], *part], both
                if not span.is_whole(self._size(span)):
                    break
                part, span = [span.source], self._span(span.source, axis)
            done.append((part, span))
        return [name for part, _ in done for name in part]

    def _size(self, span: Span) -> Extent | None:
        sizes = self.shapes.sizes.get(span.source)
        return None if sizes is None else sizes[span.axis]

    def _span(self, name: str, axis: int) -> Span | None:
        """Return the elements along an axis of another tensor that a tensor consists of."""
        node = self.index.producer(name)
        if node is None or node.domain not in STANDARD_DOMAINS:
            return None
        if node.op_type == "Unsqueeze":
            return self._element(node, axis)
        sizes = self.shapes.sizes.get(node.input[0]) if node.input else None
        read = {"Split": self._part, "Slice": self._slice, "Gather": self._gathered}.get(node.op_type)
        if read is None or sizes is None or not 0 <= axis < len(sizes):
            return None
        found = read(node, name, axis, len(sizes))
        return None if found is None else replace(found, source=self._source(node.input[0]))

    def _part(self, node: onnx.NodeProto, name: str, axis: int, rank: int) -> Span | None:
        """Return a part of a Split, whose places are numbers of parts, the last one the end of the axis."""
        if int(attributes(node).get("axis", 0)) % rank != axis:
            return None
        number, last = list(node.output).index(name), len(node.output) - 1
        ends = [(node.output[0], k) for k in range(1, last + 1)]
        places: list[Place] = [0, *ends, _end(self.shapes.sizes[node.input[0]][axis])]
        return Span(node.input[0], axis, tuple(places[number : number + 2]), ordered=True)

    def _slice(self, node: onnx.NodeProto, _: str, axis: int, rank: int) -> Span | None:
        """Return the elements of a Slice with steps of one, along a single axis."""
        starts, ends = self._numbers(node, 1, "starts"), self._numbers(node, 2, "ends")
        if not starts or ends is None or len(starts) != len(ends):
            return None
        axes, steps = self._numbers(node, 3, "axes"), self._numbers(node, 4, "steps")
        axes = list(range(len(starts))) if axes == [] else axes
        if axes is None or len(axes) != len(starts) or steps is None or any(step != 1 for step in steps):
            return None
        found = None
        for start, end, along in zip(starts, ends, axes, strict=True):
            if not isinstance(along, int) or start is None or end is None:
                return None
            size = self.shapes.sizes[node.input[0]][along % rank]
            span = _clamped(start, size), _clamped(end, size)
            if along % rank == axis:
                found = Span(node.input[0], axis, span)
            elif span != (0, size):
                return None
        return found

    def _gathered(self, node: onnx.NodeProto, _: str, axis: int, rank: int) -> Span | None:
        """Return the elements of a Gather of ascending numbers in a row."""
        picked, size = self.shapes.values.get(node.input[1]), self.shapes.sizes[node.input[0]][axis]
        along = int(attributes(node).get("axis", 0)) % rank == axis
        if not along or picked is None or picked.ndim != 1 or not picked.size or not isinstance(size, int):
            return None
        places = [int(number) % size for number in picked] if size else []
        begin = places[0] if places else 0
        if places != list(range(begin, begin + len(places))):
            return None
        return Span(node.input[0], axis, (begin, begin + len(places)))

    def _element(self, node: onnx.NodeProto, axis: int) -> Span | None:
        """Return the one element that lost its axis to a Gather or a Squeeze, and has it again."""
        rank, inner = len(self.shapes.sizes.get(node.output[0], ())), self.index.producer(node.input[0])
        if inner is None or inner.domain not in STANDARD_DOMAINS or not self._is_along(node, axis, rank):
            return None
        if inner.op_type == "Squeeze":
            return self._span(inner.input[0], axis) if self._is_along(inner, axis, rank) else None
        picked = self.shapes.values.get(inner.input[1]) if inner.op_type == "Gather" else None
        size = self.shapes.sizes.get(inner.input[0], ())[axis : axis + 1]
        if picked is None or picked.ndim or not size or not isinstance(size[0], int) or not size[0]:
            return None
        if int(attributes(inner).get("axis", 0)) % rank != axis:
            return None
        place = int(picked) % size[0]
        return Span(self._source(inner.input[0]), axis, (place, place + 1))

    def _is_along(self, node: onnx.NodeProto, axis: int, rank: int) -> bool:
        """Return true if a Squeeze or Unsqueeze drops or adds a single axis, that one."""
        axes = self._numbers(node, 1, "axes")
        found = axes[0] if axes is not None and len(axes) == 1 else None
        return isinstance(found, int) and rank > 0 and found % rank == axis

    def _numbers(self, node: onnx.NodeProto, operand: int, name: str) -> list[Extent | None] | None:
        """Return the integers of an operand, or of the attribute that older opsets have.

        Returns:
            An empty list without the operand, ``None`` where not even their number is known.
        """
        listed = attributes(node).get(name)
        if listed is not None:
            return list(listed)
        if operand >= len(node.input) or not node.input[operand]:
            return []
        return self.shapes.integers(node.input[operand])


def _clamped(place: Extent, size: Extent) -> Place:
    """Return a place of a Slice as a number from the beginning, as far as it is the same at every size."""
    if isinstance(place, int) and isinstance(size, int):
        return min(max(place + size if place < 0 else place, 0), size)
    return size if isinstance(place, int) and place >= _FAR else place
