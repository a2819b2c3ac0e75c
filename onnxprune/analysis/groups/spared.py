"""Weights that masking leaves as they are, so that the network divides by the numbers of the original."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from onnxprune.analysis.groups.channel_values import masked_constant
from onnxprune.ir import subgraphs
from onnxprune.ops.axes import Divisor, Typing
from onnxprune.ops.spec import spec_of


def weights_behind(
    tensors: Iterable[str], typing: Typing, carriers: Collection[str], makers: Mapping[str, int]
) -> frozenset[str] | None:
    """Return the weights that some tensors are computed from, along the axes of one factor.

    Args:
        tensors: The tensors.
        typing: The network.
        carriers: All tensors that carry the factor.
        makers: The node that makes each tensor.

    Returns:
        Names of constants; ``None`` where a node with a body carries the factor.
    """
    if any(any(subgraphs(typing.nodes[makers[t]])) for t in carriers if t in makers):
        return None
    found, waiting = set[str](), [t for t in tensors if t in carriers]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        root = masked_constant(typing, name)
        if root is not None:
            found.add(root)
        elif name in makers:
            added = [i for i in typing.nodes[makers[name]].input if i in carriers and i not in seen]
            seen.update(added)
            waiting += added
    return frozenset(found) if found and not found & typing.absent.keys() else None


def may_fail(divisor: Divisor, typing: Typing, makers: Mapping[str, int]) -> bool:
    """Return whether the given network itself may have no finite number on a range of inputs.

    Its weights left as they are, a channel would show there, though the sum multiplies it by zero.
    """
    if divisor.above:
        return True
    name = divisor.tensor
    while name in makers:
        node, spec = typing.nodes[makers[name]], spec_of(typing.nodes[makers[name]])
        if spec.jumps:
            return True
        if spec.vanishes:
            operands = [i for i in node.input if i]
            return len(operands) == 1 or any(i in typing.model.constants for i in operands)
        if not (spec.moves or spec.copies):
            return False
        name = node.input[0]
    return False


def changed(
    typing: Typing, carriers: Collection[str], makers: Mapping[str, int], spared: Collection[str]
) -> set[str]:
    """Return the carriers of a factor that masking changes, some weights being spared."""
    found = {t for t in carriers if masked_constant(typing, t) not in (None, *spared)}
    for index in sorted({makers[t] for t in carriers if t in makers}):
        node = typing.nodes[index]
        if found.intersection(node.input):
            found.update(o for o in node.output if o in carriers)
    return found
