"""Zeros of removed channels: sums over them shorten exactly, divisions by them are blocked.

Masking sets weights to zero. A sum is the same without a channel if one of the operands of the
sum is a masked weight, or is an activation that is zero there because all it was made of is. An operand that
becomes zero in the same way must not be one that the network divides by, or takes the logarithm or reciprocal
of: the number that such an operand holds there has to be known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from onnxprune.algebra.axes import Block, Dim, Factor, block, factors, resolve
from onnxprune.analysis.groups.channel_values import channel_values, is_masked, positive, repeated
from onnxprune.analysis.groups.ghosts import find_ghost
from onnxprune.analysis.groups.spared import changed, may_fail, weights_behind
from onnxprune.ir import label
from onnxprune.ops.axes import Contraction, Divisor, Inexact, Typing
from onnxprune.ops.axes.context import INEXACT_OPENS
from onnxprune.ops.axes.variables import Views

NOT_ZERO = "it sums over this axis, and no operand is zero where a channel is removed"
INFINITE = "it has no finite value where a channel is removed"


def block_inexact_sums(typing: Typing) -> None:
    """Block the factors some node sums over, or divides by, although removed channels would show there."""
    sums, divisions = _open_sums(typing), _open_divisions(typing)
    carriers = _carriers(typing, {*sums, *divisions})
    makers = {o: k for k, node in enumerate(typing.nodes) for o in node.output}
    views = Views(typing)
    for factor, contractions in sums.items():
        values = channel_values(typing, factor, carriers[factor], makers, views)
        for contraction in contractions:
            if not any(values.get(t) == 0 for t in contraction.tensors):
                ghost = (
                    find_ghost(typing, factor, contraction, values, makers) if typing.allow_inexact else None
                )
                if ghost is None or typing.ghosts.setdefault(contraction.node, ghost) != ghost:
                    _refuse(typing, factor, contraction)
    for factor, divisors in divisions.items():
        failing = _without_value(typing, factor, divisors, carriers[factor], makers)
        if failing and not _spare(typing, factor, divisors, failing, carriers[factor], makers, views):
            for divisor in failing:
                _block(typing, factor, divisor.node, INFINITE)


def _without_value(
    typing: Typing,
    factor: Factor,
    divisors: Iterable[Divisor],
    carriers: set[str],
    makers: Mapping[str, int],
    spared: Collection[str] = (),
) -> list[Divisor]:
    """Return the divisions that have no known finite result where the weights of a channel are zero."""
    values = channel_values(typing, factor, carriers, makers, None, spared)
    same = repeated(typing, carriers, makers)  # the other channels are divided by the same number
    above = positive(typing, carriers, makers, values)
    found = []
    for divisor in divisors:
        results = typing.nodes[divisor.node].output
        known = values.get(divisor.tensor) or divisor.tensor in above
        known = known or _is_constant_divisor(typing, divisor.tensor)
        if divisor.tensor in same or (known and all(np.isfinite(values.get(r, 0)) for r in results)):
            continue
        found.append(divisor)
    return found


def _spare(
    typing: Typing,
    factor: Factor,
    divisors: Iterable[Divisor],
    failing: Iterable[Divisor],
    carriers: set[str],
    makers: Mapping[str, int],
    views: Views,
) -> bool:
    """Let masking leave the weights behind some divisors as they are, if each sum shortens exactly then too.

    The divisors then are those of the original. Example: the keys of linear attention, whose heads are
    zero already where the values are. Functions that are defined for some numbers only, such as logarithms,
    are left out: they may have no value at a channel that is removed.
    """
    spared = weights_behind((d.tensor for d in failing), typing, carriers, makers)
    if spared is None:
        return False
    other = changed(typing, carriers, makers, spared)
    as_given = _without_value(typing, factor, divisors, carriers, makers, spared)
    if any(d.tensor in other or may_fail(d, typing, makers) for d in as_given):
        return False
    values = channel_values(typing, factor, carriers, makers, views, spared)
    for contraction in typing.contractions:
        if factor in _free(contraction.dim) and not any(values.get(t) == 0 for t in contraction.tensors):
            return False
    typing.spared[factor] = spared
    return True


def _is_constant_divisor(typing: Typing, tensor: str) -> bool:
    """Return whether a divisor is a constant of numbers other than zero that masking leaves as it is."""
    if tensor not in typing.model.constants or is_masked(typing, tensor):
        return False
    divisor = typing.model.array(tensor)
    return bool(np.all(divisor)) and not np.any(np.isnan(divisor))


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
