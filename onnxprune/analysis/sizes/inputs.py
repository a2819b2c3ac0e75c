"""The open axes of the inputs: names, numbers given for them, and assumptions about them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxprune.algebra.sizes.algebra import Extent, Size, Value, as_extent, floor_div, maximum, minimum
from onnxprune.algebra.sizes.facts import SizeFacts
from onnxprune.analysis.sizes.caches import lengthened
from onnxprune.errors import UsageError
from onnxprune.ir.given import axis_name
from onnxprune.runtime.size_names import called, expression, symbols_of

CACHES = ("past", "cache")
"""In the name of an axis, or of all inputs that have it: it may be empty at first."""


@dataclass(frozen=True)
class OpenAxis:
    """A size that the caller chooses.

    Attributes:
        name: Name of the symbol.
        lower: The least size: 1, and 0 for caches.
        places: The input and the axis of each place it occurs in.
    """

    name: str
    lower: int
    places: tuple[tuple[str, int], ...]


def declared(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller has to feed."""
    graph = proto.graph
    fixed = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in fixed]


class Inputs:
    """The inputs of a model as sizes.

    Args:
        proto: The model.
        facts: Facts in which symbols are made and bound.
        bound: Numbers for symbols, by name.
        shapes: Full shapes of inputs, by name.

    Attributes:
        sizes: The shapes of the inputs that have one, by name.
        axes: The open axes, by the name of their symbol.

    Raises:
        UsageError: A number or a shape fits no input, or contradicts the file.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        facts: SizeFacts,
        bound: Mapping[str, int] | None,
        shapes: Mapping[str, Sequence[int]] | None,
    ) -> None:
        self.facts = facts
        self.values = declared(proto)
        self._lengthened = lengthened(proto.graph, self.values)
        self._texts = {
            (v.name, k): int(dim.dim_value) if dim.dim_value > 0 else axis_name(v.name, k, dim)
            for v in self.values
            for k, dim in enumerate(v.type.tensor_type.shape.dim)
        }
        self._plain = dict.fromkeys(t for t in self._texts.values() if isinstance(t, str))
        self._parsed: dict[str, Extent] = {}
        self._places: dict[str, list[tuple[str, int]]] = {}
        self.sizes: dict[str, tuple[Extent, ...]] = {}
        trees = {text: expression(text, self._plain) for text in self._plain}
        for (name, axis), text in self._texts.items():
            if isinstance(text, str):
                for symbol in symbols_of(trees[text], text):
                    self._places.setdefault(symbol, []).append((name, axis))
        for text, tree in trees.items():
            self._parsed[text] = self._named(text) if tree is None else self._computed(tree)
        for v in self.values:
            if v.type.tensor_type.HasField("shape"):
                rank = len(v.type.tensor_type.shape.dim)
                self.sizes[v.name] = tuple(self._size(self._texts[v.name, k]) for k in range(rank))
        self.axes = {
            name: OpenAxis(name, self._least(name), tuple(places)) for name, places in self._places.items()
        }
        self._assume()
        self._bind(bound or {})
        self._fit(shapes or {})

    def _size(self, text: str | int) -> Extent:
        return text if isinstance(text, int) else self._parsed[text]

    def _named(self, name: str) -> Size:
        return self.facts.algebra.symbol(name, self._least(name))

    def _least(self, name: str) -> int:
        """Return the least size of an axis: a cache may be empty at first."""
        places = self._places.get(name, ())
        caches = [_is_cache(place[0]) or place in self._lengthened for place in places]
        return 0 if _is_cache(name) or (caches and all(caches)) else 1

    def _computed(self, tree: ast.expr) -> Extent:
        """Return the value of an expression over names."""
        return as_extent(self._value(tree))

    def _value(self, tree: ast.expr) -> Value:
        if isinstance(tree, ast.Name):
            return self._named(tree.id)
        if isinstance(tree, ast.Constant):
            return int(tree.value)  # type: ignore[arg-type]
        if isinstance(tree, ast.Call):
            operands = [self._value(a) for a in tree.args]
            return (maximum if called(tree) == "max" else minimum)(*operands)
        if not isinstance(tree, ast.BinOp):
            raise AssertionError(ast.dump(tree))
        a, b = self._value(tree.left), self._value(tree.right)
        if isinstance(tree.op, ast.Add):
            return a + b
        if isinstance(tree.op, ast.Sub):
            return a - b
        return a * b if isinstance(tree.op, ast.Mult) else floor_div(a, b)

    def _assume(self) -> None:
        """State the assumptions."""
        filled = [a.name for a in self.axes.values() if a.lower]
        empty = [a.name for a in self.axes.values() if not a.lower]
        if filled:
            self.facts.assumptions[f"open axes have at least one element: {', '.join(filled)}"] = None
        if empty:
            self.facts.assumptions[f"caches may be empty: {', '.join(empty)}"] = None
        shared = [a.name for a in self.axes.values() if len(a.places) > 1]
        if shared:
            self.facts.assumptions[f"axes of one name are equal: {', '.join(shared)}"] = None

    def _bind(self, bound: Mapping[str, int]) -> None:
        for name, number in bound.items():
            if name not in self.axes:
                known = ", ".join(self.axes) or "none"
                raise UsageError(f"no open axis is named '{name}'", f"the open axes are: {known}")
            if number < 0:
                raise UsageError(f"the axis '{name}' cannot have the size {number}", "sizes are 0 or more")
            self.facts.bind(self._named(name), number)

    def _fit(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Bind the symbols of whole inputs: names first, then expressions in them."""
        pairs: list[tuple[str, Extent, int]] = []
        for name, shape in shapes.items():
            sizes = self._checked(name, shape)
            pairs += [(name, size, number) for size, number in zip(sizes, shape, strict=True)]
        pairs.sort(key=lambda pair: isinstance(pair[1], Size) and len(pair[1].symbols) + pair[1].weight > 2)
        for name, size, number in pairs:
            now = self.facts.size_now(size)
            if isinstance(now, Size):
                self.facts.same(now, number, name, "the given shape")
            elif now != number:
                text = f"the shape given for '{name}' has {number} where {size} is {now}"
                raise UsageError(text, "axes of one name have one size: give every input the same")

    def _checked(self, name: str, shape: Sequence[int]) -> tuple[Extent, ...]:
        names = [v.name for v in self.values]
        if name not in names:
            hint = f"the inputs are: {', '.join(names) or 'none'}"
            raise UsageError(f"a shape is given for '{name}', which is not an input", hint)
        sizes = self.sizes.setdefault(name, tuple(shape))
        misfit = len(sizes) != len(shape) or any(
            isinstance(size, int) and size != number for size, number in zip(sizes, shape, strict=True)
        )
        if misfit:
            has, wants = "×".join(map(str, sizes)), "×".join(map(str, shape))
            raise UsageError(
                f"shape {wants} does not fit the input '{name}', which is {has}",
                "give a size for every axis, the file's own where it has one",
            )
        return sizes


def _is_cache(name: str) -> bool:
    return any(word in name.lower() for word in CACHES)
