"""Numbers that tensors hold at the removed channels of a factor.

Masking sets weights to zero; the numbers that follow from this are known for every input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx

from onnxprune.algebra.axes import Factor
from onnxprune.analysis.groups.body_values import values_with_bodies
from onnxprune.analysis.shapes.node_evaluation import evaluate
from onnxprune.ops.axes import Typing
from onnxprune.ops.axes.sequence_elements import empty_sequences
from onnxprune.ops.axes.variables import Views
from onnxprune.ops.spec import spec_of


def masked_constant(typing: Typing, tensor: str) -> str | None:
    """Return the constant that a tensor is, moved about or not, if masking may set it to zero.

    Some reader has to take it as a weight.
    """
    while (mover := typing.movers.get(tensor)) is not None:
        tensor = typing.nodes[mover].input[0]
    return tensor if tensor in typing.weight_uses and tensor in typing.model.constants else None


def is_masked(typing: Typing, tensor: str) -> bool:
    """Return whether a tensor is a constant that masking sets to zero, moved about or not."""
    return masked_constant(typing, tensor) is not None


def is_followed(typing: Typing, node: onnx.NodeProto, result: int) -> bool:
    """Return whether the rules of a node's operator hold for a result: not for positions, masks, statistics.

    A result of another type than the first is taken for one of these.
    """
    types = typing.shapes.types
    alike = types.get(node.output[result]) == types.get(node.output[0])
    return alike and result not in spec_of(node).beside


def channel_values(
    typing: Typing,
    factor: Factor,
    carriers: Iterable[str],
    makers: Mapping[str, int],
    views: Views | None,
    spared: Collection[str] = (),
) -> dict[str, float]:
    """Walk the tensors that carry a factor in order of execution; return their values at its channels.

    Args:
        typing: The network.
        factor: The factor.
        carriers: The tensors that carry it.
        makers: The node that makes each tensor.
        views: Views of each index: with them a number holds wherever one of a tensor's indices is that of a
            removed channel, without them only where all of them are.
        spared: Weights that masking leaves as they are along this factor.

    Returns:
        The number each tensor holds there, where that does not depend on the input.
    """
    carrying = set(carriers)
    roots = {t: masked_constant(typing, t) for t in carrying}
    values = {t: 0.0 for t, root in roots.items() if root is not None and root not in spared}
    values |= dict.fromkeys(empty_sequences(typing), 0.0)
    visited = sorted({makers[t] for t in carrying if t in makers})
    if len(typing.model.graphs) == 1:
        for index in visited:
            values |= _made(typing, index, carrying, factor, values, views)
        return values

    def made(index: int, known: Mapping[str, float]) -> dict[str, float]:
        return _made(typing, index, carrying, factor, known, views)

    return values_with_bodies(typing, visited, values, made)


def repeated(typing: Typing, carriers: set[str], makers: Mapping[str, int]) -> set[str]:
    """Return the carriers of a factor that hold one number along it, as Expand repeats it."""
    found: set[str] = set()
    for index in sorted({makers[t] for t in carriers if t in makers}):
        node = typing.nodes[index]
        spec = spec_of(node)
        sources = [i for i in node.input if i] if spec.elementwise else list(node.input[:1])
        if (spec.elementwise or spec.copies) and carriers.intersection(sources) <= found:
            found.update(node.output)
    return found


def positive(
    typing: Typing, carriers: set[str], makers: Mapping[str, int], values: Mapping[str, float]
) -> set[str]:
    """Return the carriers of a factor that are above zero at its channels, be the number known or not.

    Exponentials are, and their sums, by which a Softmax in single operators divides; sigmoids are as well.
    """
    found = {t for t in carriers if values.get(t, 0) > 0}
    for index in sorted({makers[t] for t in carriers if t in makers}):
        node, spec = typing.nodes[index], spec_of(typing.nodes[index])
        above = [name in found or _is_above(typing, name) for name in node.input if name]
        if node.op_type in ("Exp", "Sigmoid", "Softplus"):
            found.update(o for o in node.output if values.get(o) != 0)
        elif spec.sums or spec.copies or spec.moves == "whole":
            found.update(node.output if above[0] else ())
        elif spec.arithmetic in ("sum", "product", "quotient") and all(above):
            found.update(node.output)
    return found


def _is_above(typing: Typing, name: str) -> bool:
    """Return whether a tensor is a single number above zero."""
    value = typing.shapes.values.get(name)
    return value is not None and value.size == 1 and value.item() > 0


def _made(
    typing: Typing,
    index: int,
    carrying: set[str],
    factor: Factor,
    values: Mapping[str, float],
    views: Views | None,
) -> dict[str, float]:
    """Return the numbers that the results of a node hold at removed channels, where they are known."""
    node = typing.nodes[index]
    spec = spec_of(node)
    made: dict[str, float] = {}
    for number, name in enumerate(node.output):
        if name in carrying and is_followed(typing, node, number):
            seen = _seen(node, carrying, index, number, factor, views)
            zero = all(spec.zero(_flags(node, values, operands)) for operands in seen)
            if zero and index not in typing.never_zero:
                made[name] = 0.0
            elif spec.elementwise and all(seen[0] == o for o in seen):
                value = _evaluated(typing, node, values, seen[0])
                made |= {name: value} if value is not None else {}
            elif spec.copies:
                value = _copied(typing, node, values, seen)
                made |= {name: value} if value is not None else {}
    return made


def _copied(
    typing: Typing, node: onnx.NodeProto, values: Mapping[str, float], seen: Sequence[Sequence[bool | None]]
) -> float | None:
    """Return the number that a node copies to removed channels, a single one or that of its operand there."""
    source = node.input[0]
    if all(operands[0] for operands in seen):
        return values.get(source)
    constant = typing.shapes.values.get(source)
    if constant is None or constant.size != 1 or constant.dtype.kind not in "fiub":
        return None
    return float(constant.item())


def _seen(
    node: onnx.NodeProto, carrying: set[str], index: int, result: int, factor: Factor, views: Views | None
) -> list[list[bool | None]]:
    """Return, for each index of a result, whether each operand runs along it; ``None`` where not known."""
    if views is None:
        return [[name in carrying for name in node.input]]
    return [
        [axes if axes is None else bool(axes) for axes in view.operands]
        for view in views.of(index, result, factor)
    ]


def _flags(
    node: onnx.NodeProto, values: Mapping[str, float], along: Sequence[bool | None]
) -> list[bool | None]:
    """Return whether each operand is zero at a removed channel; ``None`` where it does not have that axis."""
    flags: list[bool | None] = []
    for name, here in zip(node.input, along, strict=True):
        known = values.get(name) == 0 if here else None
        flags.append(True if not name else (False if here is None else known))
    return flags


def _evaluated(
    typing: Typing, node: onnx.NodeProto, values: Mapping[str, float], along: Sequence[bool | None]
) -> float | None:
    """Compute one element, if all operands are known numbers there."""
    numbers = []
    for name, here in zip(node.input, along, strict=True):
        if not name:
            continue
        constant = typing.shapes.values.get(name)
        number = values.get(name) if here else None
        if number is None and constant is not None and constant.size == 1:
            number = constant.item()
        kind = typing.shapes.types.get(name)
        if number is None or kind is None:
            return None
        numbers.append(np.full(1, number, onnx.helper.tensor_dtype_to_np_dtype(kind)))
    try:
        with np.errstate(all="ignore"):
            return float(evaluate(node, numbers, typing.model.opset()).item())
    except Exception:  # any failure only means that the number is not known
        return None
