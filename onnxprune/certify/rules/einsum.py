"""Rule of Einsum: operands are multiplied element by element in one axis a label, then summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, mul
from onnxprune.certify.relations.relation import Relation, combined, contracted, dropped, inserted, transposed
from onnxprune.certify.rules.node_pair import NodePair, rule
from onnxprune.certify.sizes.product_sizes import einsum_labels
from onnxprune.certify.sizes.size_monomials import Size
from onnxprune.certify.sizes.size_rules import spread


@rule("Einsum")
def einsum(pair: NodePair) -> list[Relation]:
    """Labels of the result first, then those that are summed over."""
    pair.same_attributes()
    ranks = [len(pair.sizes(k)[0]) for k in pair.places]
    labels, made = einsum_labels(pair.given["equation"].decode(), ranks)
    need(all(len(set(mine)) == len(mine) for mine in (*labels, made)), "a label that occurs twice")
    order = [*made, *(dict.fromkeys(label for mine in labels for label in mine if label not in made))]
    parts: dict[int, tuple[Relation, list[Size]]] = {}
    known: dict[int, Array] = {}
    for k in sorted(pair.places, key=pair.is_constant):
        found, sizes = _operand(pair, k, labels[k], order, known)
        parts[k] = found, sizes
        known |= {a: m for a, m in found.lists.items() if a not in found.alike}
    result = combined(list(parts.values()), lambda *bounds: reduce(mul, bounds))
    for axis in range(len(order) - 1, len(made) - 1, -1):
        need(result.shift is None, "removed elements that add a constant, summed over again")
        size = spread([sizes[axis] for _, sizes in parts.values()])
        result = dropped(contracted(result, axis, size), axis)
    return [result]


def _operand(
    pair: NodePair, place: int, labels: Sequence[str], order: Sequence[str], known: dict[int, Array]
) -> tuple[Relation, list[Size]]:
    """Return the relation and the sparse sizes of an operand with an axis for each label, in their order."""
    turned = sorted(range(len(labels)), key=lambda axis: order.index(labels[axis]))
    new = [axis for axis, label in enumerate(order) if label not in labels]
    sizes = [pair.sizes(place)[0][axis] for axis in turned]
    for axis in new:
        sizes.insert(axis, 1)
    if not pair.is_constant(place):
        given = transposed(pair.relation(place), turned)
        for axis in new:
            given = inserted(given, axis)
        return given, sizes
    form = _form(turned, new)
    shape = form(pair.constant(place)[0]).shape
    lists = {a: m for a, m in known.items() if shape[a] != 1}
    hints = {order.index(labels[a]): form(m) for a, m in pair.hints(place).items()}
    return pair.match(place, lists, form, {a: m for a, m in hints.items() if a not in lists}), sizes


def _form(turned: Sequence[int], new: Sequence[int]) -> Callable[[Array], Array]:
    return lambda values: np.expand_dims(values.transpose(turned), tuple(new))
