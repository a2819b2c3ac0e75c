"""Where a removed channel is zero: what makes sums over it exact to shorten, and what must not divide by it.

Masking sets weights to zero. A sum over a channel does not notice its removal if one of the operands of the
sum is a masked weight, or is an activation that is zero there because all it was made of is. An operand that
becomes zero in the same way must not be one whose logarithm or reciprocal the network takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from onnxprune.dims import Block, Dim, Factor, block, factors
from onnxprune.graph import label
from onnxprune.rules import Contraction, Divisor, Typing, lookup, pointwise
from onnxprune.shapes.inference import evaluate

NOT_ZERO = "it sums over this axis, and no operand is zero where a channel is removed"
TWICE = "it sums over this axis, which lies twice on one tensor"
INFINITE = "it has no finite value where a channel is removed"


def block_inexact_sums(typing: Typing) -> None:
    """Block the factors some node sums over, or divides by, although removed channels would show there."""
    sums, divisions = _open_sums(typing), _open_divisions(typing)
    carriers = _carriers(typing, {*sums, *divisions})
    makers = {o: k for k, node in enumerate(typing.nodes) for o in node.output}
    for factor in (*sums, *(f for f in divisions if f not in sums)):
        values = _values(typing, carriers[factor], makers)
        zero = {t for t, v in values.items() if v == 0}
        for contraction in sums[factor]:
            if not zero.intersection(contraction.tensors):
                _refuse(typing, factor, contraction)
            elif _lies_twice(typing, factor, carriers[factor]):
                _block(typing, factor, contraction.node, TWICE)
        for divisor in divisions[factor]:
            results = typing.nodes[divisor.node].output
            if divisor.tensor in zero or not all(np.isfinite(values.get(r, 0)) for r in results):
                _block(typing, factor, divisor.node, INFINITE)


def is_masked(typing: Typing, tensor: str) -> bool:
    """Whether a tensor is a constant that masking sets to zero, moved about or not.

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
    """Return what is divided by and has free factors."""
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
        node = typing.nodes[contraction.node]
        typing.inexact.append((factor, Block(label(node), node.op_type, NOT_ZERO)))
    else:
        hint = " (--allow-inexact opens it)" if contraction.statistic else ""
        _block(typing, factor, contraction.node, NOT_ZERO + hint)


def _block(typing: Typing, factor: Factor, index: int, reason: str) -> None:
    node = typing.nodes[index]
    block(factor, Block(label(node), node.op_type, reason))


def _carriers(typing: Typing, wanted: set[Factor]) -> dict[Factor, set[str]]:
    """Return, for each factor, the tensors that have it on some axis."""
    carriers: dict[Factor, set[str]] = defaultdict(set)
    if wanted:
        for name, dims in typing.axes.items():
            for factor in wanted.intersection(f for dim in dims for f in factors(dim)):
                carriers[factor].add(name)
    return carriers


def _values(typing: Typing, carriers: Iterable[str], makers: Mapping[str, int]) -> dict[str, float]:
    """Walk the tensors that carry a factor in order of execution, and tell what they are at its channels.

    Returns:
        The number each of them holds at every removed channel, where that does not depend on the input.
    """
    carrying = set(carriers)
    values = {t: 0.0 for t in carrying if is_masked(typing, t)}
    for index in sorted({makers[t] for t in carrying if t in makers}):
        node = typing.nodes[index]
        made = carrying.intersection(node.output)
        found = lookup(node.domain, node.op_type)
        if found is None:
            continue
        flags = [True if not i else (values.get(i) == 0 if i in carrying else None) for i in node.input]
        value: float | None = None
        if found.zero(flags) and index not in typing.never_zero:
            value = 0.0
        elif found.apply.__module__ == pointwise.__name__:
            value = _evaluated(typing, node, values)
        if value is not None:
            types = typing.shapes.types  # results of another type are indices or masks
            values |= {o: value for o in made if types.get(o) == types.get(node.output[0])}
    return values


def _evaluated(typing: Typing, node: onnx.NodeProto, values: Mapping[str, float]) -> float | None:
    """Compute one element, if all operands are known numbers there."""
    numbers = []
    for name in filter(None, node.input):
        constant = typing.shapes.values.get(name)
        if name not in values and (constant is None or constant.size != 1):
            return None
        kind = onnx.helper.tensor_dtype_to_np_dtype(typing.shapes.types[name])
        number = values[name] if name in values else constant.item()  # type: ignore[union-attr]
        numbers.append(np.full(1, number, kind))
    try:
        with np.errstate(all="ignore"):
            return float(evaluate(node, numbers, typing.model.opset()).item())
    except Exception:  # any failure only means that the number is not known
        return None


def _lies_twice(typing: Typing, factor: Factor, carriers: Iterable[str]) -> bool:
    """Whether some activation has a factor on two axes: it may be zero along one of them alone."""
    activations = (typing.axes[t] for t in carriers if t not in typing.model.constants)
    return any(sum(factor in factors(dim) for dim in dims) > 1 for dims in activations)
