"""Zeros of removed channels: sums over them shorten exactly, divisions by them are blocked.

Masking sets weights to zero. A sum is the same without a channel if one of the operands of the
sum is a masked weight, or is an activation that is zero there because all it was made of is. An operand that
becomes zero in the same way must not be one that the network divides by, or takes the logarithm or reciprocal
of: the number that such an operand holds there has to be known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from onnxprune.algebra.axes import Block, Dim, Factor, block, factors, resolve
from onnxprune.analysis.groups.ghosts import find_ghost
from onnxprune.analysis.shapes.node_evaluation import evaluate
from onnxprune.ir import bodies, label
from onnxprune.ops.axes import Contraction, Divisor, Inexact, Typing
from onnxprune.ops.axes.context import INEXACT_OPENS
from onnxprune.ops.axes.variables import Views
from onnxprune.ops.spec import spec_of

NOT_ZERO = "it sums over this axis, and no operand is zero where a channel is removed"
INFINITE = "it has no finite value where a channel is removed"


def block_inexact_sums(typing: Typing) -> None:
    """Block the factors some node sums over, or divides by, although removed channels would show there."""
    sums, divisions = _open_sums(typing), _open_divisions(typing)
    carriers = _carriers(typing, {*sums, *divisions})
    makers = {o: k for k, node in enumerate(typing.nodes) for o in node.output}
    views = Views(typing)
    for factor, contractions in sums.items():
        values = _values(typing, factor, carriers[factor], makers, views)
        for contraction in contractions:
            if not any(values.get(t) == 0 for t in contraction.tensors):
                ghost = (
                    find_ghost(typing, factor, contraction, values, makers) if typing.allow_inexact else None
                )
                if ghost is None or typing.ghosts.setdefault(contraction.node, ghost) != ghost:
                    _refuse(typing, factor, contraction)
    for factor, divisors in divisions.items():
        values = _values(typing, factor, carriers[factor], makers, None)
        repeated = _repeated(typing, carriers[factor], makers)
        positive = _positive(typing, carriers[factor], makers, values)
        for divisor in divisors:
            if divisor.tensor in repeated:
                continue  # the other channels are divided by the same number
            results = typing.nodes[divisor.node].output
            known = values.get(divisor.tensor) or divisor.tensor in positive
            known = known or _is_constant_divisor(typing, divisor.tensor)
            if not known or not all(np.isfinite(values.get(r, 0)) for r in results):
                _block(typing, factor, divisor.node, INFINITE)


def _is_constant_divisor(typing: Typing, tensor: str) -> bool:
    """Return whether a divisor is a constant of numbers other than zero that masking leaves as it is."""
    if tensor not in typing.model.constants or is_masked(typing, tensor):
        return False
    divisor = typing.model.array(tensor)
    return bool(np.all(divisor)) and not np.any(np.isnan(divisor))


def is_masked(typing: Typing, tensor: str) -> bool:
    """Return whether a tensor is a constant that masking sets to zero, moved about or not.

    Some reader has to take it as a weight.
    """
    while (mover := typing.movers.get(tensor)) is not None:
        tensor = typing.nodes[mover].input[0]
    return tensor in typing.weight_uses and tensor in typing.model.constants


def _open_sums(typing: Typing) -> dict[Factor, list[Contraction]]:
    """Return the sums over free factors in which no operand is a masked weight."""
    found: dict[Factor, list[Contraction]] = defaultdict(list)
    for contraction in typing.contractions:
        if not any(is_masked(typing, t) for t in contraction.tensors):
            for factor in _free(contraction.dim):
                found[factor].append(contraction)
    return found


def _open_divisions(typing: Typing) -> dict[Factor, list[Divisor]]:
    """Return the divisors that have free factors."""
    found: dict[Factor, list[Divisor]] = defaultdict(list)
    for divisor in typing.divisors:
        for factor in {f for dim in divisor.dims for f in _free(dim)}:
            found[factor].append(divisor)
    return found


def _free(dim: Dim) -> set[Factor]:
    return {f for f in factors(dim) if f.free}


def _refuse(typing: Typing, factor: Factor, contraction: Contraction) -> None:
    """Block a factor, unless the sum is a statistic that the user accepts to change."""
    if contraction.statistic and typing.allow_inexact:
        typing.inexact.append(_inexact(typing, factor, contraction))
    else:
        hint = INEXACT_OPENS if contraction.statistic else ""
        _block(typing, factor, contraction.node, NOT_ZERO + hint)


def _inexact(typing: Typing, factor: Factor, contraction: Contraction) -> Inexact:
    """Describe a statistic that a channel adds to unless it is zero."""
    if len(contraction.tensors) != 1:
        return Inexact(contraction.node, factor)
    (operand,) = contraction.tensors
    dim = resolve(contraction.dim)
    over = [k for k, other in enumerate(typing.axes.get(operand, ())) if resolve(other) == dim]
    return Inexact(contraction.node, factor, operand, tuple(over))


def _block(typing: Typing, factor: Factor, index: int, reason: str) -> None:
    node = typing.nodes[index]
    block(factor, Block(label(node), node.op_type, reason))


def _carriers(typing: Typing, chosen: set[Factor]) -> dict[Factor, set[str]]:
    """Return, for each factor, the tensors that have it on some axis."""
    carriers: dict[Factor, set[str]] = defaultdict(set)
    if chosen:
        for name, dims in typing.axes.items():
            for factor in chosen.intersection(f for dim in dims for f in factors(dim)):
                carriers[factor].add(name)
    return carriers


def _values(
    typing: Typing, factor: Factor, carriers: Iterable[str], makers: Mapping[str, int], views: Views | None
) -> dict[str, float]:
    """Walk the tensors that carry a factor in order of execution; return their values at its channels.

    Args:
        typing: The network.
        factor: The factor.
        carriers: The tensors that carry it.
        makers: The node that makes each tensor.
        views: Views of each index: with them a number holds wherever one of a tensor's indices is that of a
            removed channel, without them only where all of them are.

    Returns:
        The number each tensor holds there, where that does not depend on the input.
    """
    carrying = set(carriers)
    values = {t: 0.0 for t in carrying if is_masked(typing, t)}
    for index in sorted({makers[t] for t in carrying if t in makers}):
        if typing.nodes[index].op_type == "If":
            values |= _of_branches(typing.nodes[index], values)
        else:
            values |= _made(typing, index, carrying, factor, values, views)
    return values


def _repeated(typing: Typing, carriers: set[str], makers: Mapping[str, int]) -> set[str]:
    """Return the carriers of a factor that hold one number along it, as Expand repeats it."""
    repeated: set[str] = set()
    for index in sorted({makers[t] for t in carriers if t in makers}):
        node = typing.nodes[index]
        spec = spec_of(node)
        sources = [i for i in node.input if i] if spec.elementwise else list(node.input[:1])
        if (spec.elementwise or spec.copies) and carriers.intersection(sources) <= repeated:
            repeated.update(node.output)
    return repeated


def _positive(
    typing: Typing, carriers: set[str], makers: Mapping[str, int], values: Mapping[str, float]
) -> set[str]:
    """Return the carriers of a factor that are above zero at its channels, whatever number they hold.

    Exponentials are, and their sums: a Softmax in single operators divides by one.
    """
    positive = {t for t in carriers if values.get(t, 0) > 0}
    for index in sorted({makers[t] for t in carriers if t in makers}):
        node, spec = typing.nodes[index], spec_of(typing.nodes[index])
        above = [name in positive or _is_above(typing, name) for name in node.input if name]
        if node.op_type == "Exp":
            positive.update(o for o in node.output if values.get(o) != 0)
        elif spec.sums or spec.copies or spec.moves == "whole":
            positive.update(node.output if above[0] else ())
        elif spec.arithmetic in ("sum", "product", "quotient") and all(above):
            positive.update(node.output)
    return positive


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
    spec, types = spec_of(node), typing.shapes.types
    made: dict[str, float] = {}
    for number, name in enumerate(node.output):
        if name in carrying and types.get(name) == types.get(node.output[0]):  # others are indices or masks
            seen = _seen(node, carrying, index, number, factor, views)
            zero = all(spec.zero(_flags(node, values, operands)) for operands in seen)
            if zero and index not in typing.never_zero:
                made[name] = 0.0
            elif spec.elementwise and all(seen[0] == o for o in seen):
                value = _evaluated(typing, node, values, seen[0])
                made |= {name: value} if value is not None else {}
            elif spec.copies and node.input[0] in values and all(operands[0] for operands in seen):
                made[name] = values[node.input[0]]
    return made


def _of_branches(node: onnx.NodeProto, values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers that the results of an If hold in both branches."""
    made: dict[str, float] = {}
    for name, *sources in zip(node.output, *(body.output for body in bodies(node)), strict=True):
        number, *others = (values.get(source.name) for source in sources)
        if number is not None and all(other == number for other in others):
            made[name] = number
    return made


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
