"""Input shapes to try a model with: small, odd, one, unequal, with another batch; the smallest first."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxprune.algebra.sizes.algebra import Value, number_of
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.analysis.sizes.runnable_sizes import trial_sizes
from onnxprune.errors import ModelError, OnnxpruneError
from onnxprune.ir import Model
from onnxprune.runtime.usual_sizes import BATCHES, LADDER, LARGER, SIDES

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

_LARGEST_TENSOR = 1 << 24
"""Elements of the largest tensor of shapes that are solved for."""
_SUMS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


@dataclass(frozen=True)
class Trial:
    """Full shapes of all inputs.

    Attributes:
        kind: Special feature of them; one trial of each kind is enough.
        shapes: Shapes by input name.
    """

    kind: str
    shapes: Shapes

    @property
    def elements(self) -> int:
        """The number of fed elements."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def trial_shapes(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> Iterator[Trial]:
    """Yield input shapes that the declared sizes of a model allow, smallest first.

    Symbols of one name get one size throughout, a name such as ``past + sequence`` the sum it states. The
    caller tests whether the model can be run with them: kinds come again at larger sizes.

    Args:
        model: The model.
        given: Sizes of inputs that are known to work, by name, -1 for an axis that may have any; they come
            first.
    """
    axes = {i.name: _axes(i) for i in model.inputs}
    symbols = _symbols(axes)
    if given:
        yield Trial("given", _filled(axes, {}, given))
    yield from _solved(model)
    batches = [s for s, is_batch in symbols.items() if is_batch]
    others = [s for s, is_batch in symbols.items() if not is_batch]
    found = [*_lengths(axes, batches, others), *_batches(axes, batches, others)]
    seen: set[tuple[tuple[str, Shape], ...]] = set()
    for trial in sorted(found, key=lambda t: t.elements):
        key = tuple(sorted(trial.shapes.items()))
        if key not in seen and all(n > 0 for shape in trial.shapes.values() for n in shape):
            seen.add(key)
            yield trial


def _solved(model: Model) -> Iterator[Trial]:
    """Yield shapes that fulfil all conditions that the graph puts on the sizes of the inputs."""
    try:
        analysis = infer_sizes(model.proto, where=model.name)
        found = trial_sizes(analysis, budget=_LARGEST_TENSOR)
    except ModelError:  # no sizes that are known to fit: the ladder finds some by trying
        return
    known = {i.name: analysis.shapes.get(i.name) for i in model.inputs}
    for number, sizes in enumerate(found if None not in known.values() else ()):
        try:
            shapes = {n: tuple(int(number_of(e, sizes)) for e in s or ()) for n, s in known.items()}
        except (KeyError, ValueError):  # a size that is no whole number
            continue
        yield Trial(f"solved {number}", shapes)


def enlarged(model: Model, shapes: Mapping[str, Shape], factor: int) -> Shapes:
    """Return shapes with a batch so many times as large, as far as the file leaves the first axis open."""
    first = {i.name: _axes(i)[:1] for i in model.inputs}
    free = {n for n, axes in first.items() if axes and isinstance(axes[0], str)}
    return {n: (s[0] * factor, *s[1:]) if n in free else tuple(s) for n, s in shapes.items()}


def estimated_bytes(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> float:
    """Return the size of all tensors a model computes with inputs of these shapes, as far as it is known.

    The tensors a run holds at a time are less. Tensors of unknown size count as large as the inputs. Shapes
    that contradict the network have no bound: infinity.
    """
    fed = sum(math.prod(s) for s in shapes.values())
    try:
        inferred = infer_sizes(proto, shapes=shapes)
    except OnnxpruneError:
        return math.inf
    made = [o for node in proto.graph.node for o in node.output if o]
    return sum(_bytes(inferred.shapes.get(name), inferred.types.get(name), fed) for name in made)


def _bytes(shape: Sequence[Value] | None, kind: int | None, unknown: int) -> int:
    sizes = [size for size in shape or () if isinstance(size, int)]
    known = shape is not None and len(sizes) == len(shape)
    width = 8 if kind in (onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE) else 4
    return width * (math.prod(sizes) if known else unknown)


def _axes(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return the size of each axis of an input, or an expression in symbols; unnamed axes get names."""
    kind = value.type.tensor_type
    rank = len(kind.shape.dim)
    axes: list[int | str] = []
    for axis, dim in enumerate(kind.shape.dim):
        symbol = dim.dim_param.strip("?").strip()
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            axes.append(int(dim.dim_value))
        elif symbol:
            axes.append(symbol)
        elif axis == 0:
            axes.append("#batch")
        elif rank == 4 and axis == 1:
            axes.append(3)
        else:
            axes.append(f"#{rank}_{axis}")
    return axes


def _symbols(axes: Mapping[str, Sequence[int | str]]) -> dict[str, bool]:
    """Return all symbols, and for each whether it is a batch: whether it is the first axis of an input."""
    found: dict[str, bool] = {}
    for sizes in axes.values():
        for axis, size in enumerate(sizes):
            for name in _names(size) if isinstance(size, str) else ():
                found[name] = found.get(name, False) or (axis == 0 and name == size)
    return found


def _names(text: str) -> list[str]:
    """Return the symbols of an expression; a text that is no expression is a symbol itself."""
    tree = _parsed(text)
    return [text] if tree is None else [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]


def _parsed(text: str) -> ast.expr | None:
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    allowed = (ast.Name, ast.Constant, ast.BinOp, ast.Load, *_SUMS)
    return tree if all(isinstance(n, allowed) for n in ast.walk(tree)) else None


def _value(text: str, sizes: Mapping[str, int]) -> int:
    """Return the value of an expression of symbols."""
    tree = _parsed(text)
    return sizes[text] if tree is None else _computed(tree, sizes)


def _computed(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    if isinstance(tree, ast.BinOp):
        right = _computed(tree.right, sizes)
        return _SUMS[type(tree.op)](_computed(tree.left, sizes), right) if right else 0
    assert isinstance(tree, ast.Constant)
    return int(tree.value) if isinstance(tree.value, int) else 0


def _filled(
    axes: Mapping[str, Sequence[int | str]],
    sizes: Mapping[str, int],
    given: Mapping[str, Sequence[int]] | None = None,
) -> Shapes:
    """Put sizes in the place of symbols."""
    shapes: Shapes = {}
    known = dict(sizes)
    for name, shape in (given or {}).items():
        known.update(
            {s: n for s, n in zip(axes.get(name, ()), shape, strict=False) if isinstance(s, str) and n > 0}
        )
    default = {
        s: known.get(s, 2) for ss in axes.values() for t in ss if isinstance(t, str) for s in _names(t)
    }
    for name, listed in axes.items():
        found = tuple(s if isinstance(s, int) else _value(s, default | known) for s in listed)
        kept = (given or {}).get(name, found)
        shapes[name] = tuple(k if k > 0 else n for k, n in zip(kept, found, strict=True))
    return shapes


def _lengths(
    axes: Mapping[str, Sequence[int | str]], batches: Sequence[str], others: Sequence[str]
) -> Iterator[Trial]:
    """Yield shapes that differ in the axes that are no batch; each with a batch of two and of one."""
    for batch in (2, 1) if batches else (1,):
        fixed = dict.fromkeys(batches, batch)
        if not others:
            yield Trial("small", _filled(axes, fixed))
            continue
        yield Trial("one", _filled(axes, fixed | dict.fromkeys(others, 1)))
        for length in LADDER:
            yield Trial("small", _filled(axes, fixed | dict.fromkeys(others, length)))
            yield Trial("odd", _filled(axes, fixed | dict.fromkeys(others, length - 1)))
            if len(others) > 1:
                multiples = {s: length * (k % 3 + 1) for k, s in enumerate(others)}
                yield Trial("unequal", _filled(axes, fixed | multiples))
                apart = {s: length + 1 + (k % 3) * 3 for k, s in enumerate(others)}
                yield Trial("unequal and odd", _filled(axes, fixed | apart))
        for length in LARGER:
            larger = {s: length * (2 - k % 2) for k, s in enumerate(others)}
            yield Trial("larger", _filled(axes, fixed | larger))
            odd = {s: length + 1 + 4 * (k % 3) for k, s in enumerate(others)}
            yield Trial("larger and odd", _filled(axes, fixed | odd))
        for pair in SIDES if len(others) == 2 else ():
            yield Trial("usual", _filled(axes, fixed | dict(zip(others, pair, strict=True))))


def _batches(
    axes: Mapping[str, Sequence[int | str]], batches: Sequence[str], others: Sequence[str]
) -> Iterator[Trial]:
    """Yield shapes with other batches: any, and multiples of eight for models that take only those."""
    if not others:
        for batch in BATCHES if batches else ():
            yield Trial(f"batch {batch}", _filled(axes, dict.fromkeys(batches, batch)))
        return
    for length in LADDER if batches else ():
        lengths = dict.fromkeys(others, length)
        for kind, numbers in (("other batch", (3, 5)), ("large batch", (16, 8)), ("small", (8,))):
            for batch in numbers:
                yield Trial(kind, _filled(axes, lengths | dict.fromkeys(batches, batch)))
