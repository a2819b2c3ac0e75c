"""Parts of joined tensors, read where they were before they were joined.

``h[-1]`` of the states of several layers is a Gather behind a Concat along the axis of the layers. The Concat
couples all other axes of its operands, though each reader takes elements of a single one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, attributes
from onnxprune.ops.spec import STANDARD_DOMAINS


def read_in_parts(model: Model, shapes: Shapes) -> Model:
    """Return the model with each Gather and Slice of a single part reading that part; itself without any.

    Args:
        model: A checked model.
        shapes: Shapes and known values of its tensors.
    """
    makers = {o: node for node in model.all_nodes for o in node.output if o}
    found = [
        (number, part)
        for number, node in enumerate(model.all_nodes)
        if (part := _part(node, makers, shapes)) is not None
    ]
    if not found:
        return model
    model = model.copy()
    nodes = model.all_nodes
    for number, (name, start) in found:
        node = nodes[number]
        _shift(model, node, shapes, start, _axis(node, shapes))
        node.input[0] = name
    model.edited()
    return model


def _part(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], shapes: Shapes
) -> tuple[str, int] | None:
    """Return the tensor that has all elements which a node picks, and the place where it begins."""
    span = _span(node, shapes)
    if span is None:
        return None
    axis, (first, last) = _axis(node, shapes), span
    name, start = node.input[0], 0
    while (
        (maker := makers.get(name)) is not None and maker.op_type == "Concat" and _joins(maker, axis, shapes)
    ):
        begin = start
        for operand in maker.input:
            count = shapes.sizes[operand][axis]
            assert isinstance(count, int)
            if first < begin + count:
                break
            begin += count
        if last >= begin + count:
            break
        name, start = operand, begin
    return None if name == node.input[0] else (name, start)


def _joins(node: onnx.NodeProto, axis: int, shapes: Shapes) -> bool:
    """Return whether a Concat joins tensors of fixed lengths along an axis."""
    known = [shapes.sizes.get(name) for name in node.input]
    if node.domain not in STANDARD_DOMAINS or any(sizes is None for sizes in known):
        return False
    rank = len(known[0] or ())
    along = attributes(node)["axis"] % rank == axis
    return along and all(isinstance((sizes or ())[axis], int) for sizes in known)


def _axis(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the axis that a Gather or Slice picks elements of."""
    rank = len(shapes.sizes[node.input[0]])
    if node.op_type == "Gather":
        return int(attributes(node).get("axis", 0)) % rank
    return int(_numbers(node, 3, "axes", shapes, [0])[0]) % rank


def _span(node: onnx.NodeProto, shapes: Shapes) -> tuple[int, int] | None:
    """Return the first and the last element that a node picks, ``None`` where they are not known."""
    if node.domain not in STANDARD_DOMAINS or node.op_type not in ("Gather", "Slice"):
        return None
    sizes = shapes.sizes.get(node.input[0], ())
    if len(sizes) < 2 or shapes.types.get(node.input[0]) == onnx.TensorProto.INT64:
        return None
    if node.op_type == "Gather":
        picked = shapes.values.get(node.input[1])
        count = sizes[_axis(node, shapes)]
    else:
        listed = [_numbers(node, k, name, shapes, []) for k, name in ((1, "starts"), (2, "ends"))]
        axes, steps = _numbers(node, 3, "axes", shapes, [0]), _numbers(node, 4, "steps", shapes, [1])
        if any(len(numbers) != 1 for numbers in (*listed, axes)) or list(steps) != [1]:
            return None
        count = sizes[_axis(node, shapes)]
        if not isinstance(count, int):
            return None
        places = range(count)[listed[0][0] : listed[1][0]]
        return (places[0], places[-1]) if places else None
    if picked is None or not picked.size or not isinstance(count, int):
        return None
    from_start = np.where(picked < 0, picked + count, picked)
    return int(from_start.min()), int(from_start.max())


def _numbers(
    node: onnx.NodeProto, operand: int, name: str, shapes: Shapes, default: Sequence[int]
) -> list[int]:
    """Return the integers of an operand, or of the attribute that older opsets have; empty where unknown."""
    listed = attributes(node).get(name)
    if listed is not None:
        return list(listed)
    if operand >= len(node.input) or not node.input[operand]:
        return list(default)
    known = shapes.values.get(node.input[operand])
    return [] if known is None else [int(v) for v in known.ravel()]


def _shift(model: Model, node: onnx.NodeProto, shapes: Shapes, start: int, axis: int) -> None:
    """Count the elements that a node picks from the beginning of its part."""
    count = shapes.sizes[node.input[0]][axis]
    assert isinstance(count, int)
    if node.op_type == "Gather":
        picked = shapes.values[node.input[1]]
        places = np.where(picked < 0, picked + count, picked) - start
        node.input[1] = model.add_constant(f"{node.input[1]}__part", places.astype(picked.dtype))
        return
    span = _span(node, shapes)
    assert span is not None
    bounds = {"starts": span[0] - start, "ends": span[1] + 1 - start}
    for operand, (name, number) in enumerate(bounds.items(), 1):
        held = next((a for a in node.attribute if a.name == name), None)
        if held is not None:
            held.ints[:] = [number]
        else:
            kind = shapes.values[node.input[operand]].dtype
            node.input[operand] = model.add_constant(
                f"{node.input[operand]}__part", np.asarray([number], kind)
            )
