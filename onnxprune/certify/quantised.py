"""Rules of products of integers: elements and weights minus their zero points.

A quantised element stands for zero if it is the zero point. The scale and the zero point of
DynamicQuantizeLinear depend on the largest and the least element of a tensor and on zero, so that elements
which are zero can be removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.certify.element_bounds import Array, Bounds, only_zero, unbounded
from onnxprune.certify.node_pair import NodePair, rule
from onnxprune.certify.products import Layer, channels, layer_over_last, merged, on_channels
from onnxprune.certify.refusal import need
from onnxprune.certify.relation import Relation, removed, same


@dataclass(frozen=True)
class Centred:
    """Bounds of quantised elements minus their zero point.

    Attributes:
        zero_point: The name of the sparse zero point.
        bounds: Bounds of the differences, of which only those that are zero are known.
    """

    zero_point: str
    bounds: Bounds


@rule("DynamicQuantizeLinear")
def dynamic_quantisation(pair: NodePair) -> list[Relation]:
    """The elements, their scale and their zero point: these two stay if zeros alone are removed."""
    pair.same_attributes()
    given = pair.relation(0).exact()
    need(not given.free, "an axis that does not vary")
    for axis, listed in given.lists.items():
        size = pair.sizes(0)[0][axis]
        need(isinstance(size, int) and listed.size == listed.shape[axis], "other elements in each row")
        assert isinstance(size, int)
        gone = removed(listed, axis, size)
        zero = np.broadcast_to(given.bounds.zero, np.broadcast_shapes(given.bounds.shape, gone.shape))
        need((zero | ~gone).all(), "a removed element may be the largest or the least")
    sparse, _, zero_point = pair.sparse.output
    pair.proof.centred[sparse] = Centred(zero_point, only_zero(given.bounds))
    return [given.holding(unbounded(given.rank)), same(0), same(0)]


def _inputs(pair: NodePair) -> Relation:
    """Return the relation of the first operand minus its zero point, operand 2."""
    pair.whole(2)
    found = pair.proof.centred.get(pair.sparse.input[0])
    need(found is not None and pair.has(2), "quantised elements whose zeros are not known")
    assert found is not None
    need(pair.sparse.input[2] == found.zero_point, "another zero point")
    return pair.relation(0).exact().holding(found.bounds)


def _weights(pair: NodePair, axis: int) -> tuple[Array, Array]:
    """Return the weights of both nodes, operand 1, minus their zero points, operand 3, along an axis."""
    given = list(pair.constant(1))
    if pair.has(3):
        for k, zero in enumerate(pair.constant(3)):
            shape = [1] * given[k].ndim
            shape[axis] = -1
            points = zero.astype(np.int32).reshape(shape if zero.size > 1 else [1] * given[k].ndim)
            given[k] = given[k].astype(np.int32) - points
    return given[0].astype(np.float32), given[1].astype(np.float32)


@rule("MatMulInteger")
def matmul(pair: NodePair) -> list[Relation]:
    """``(A[… k] − a) · (B[k n] − b)``."""
    pair.same_attributes()
    weights = _weights(pair, -1)
    need(weights[0].ndim == 2, "weights that are no matrix")
    return [layer_over_last(pair, _inputs(pair), weights)]


@rule("ConvInteger")
def conv(pair: NodePair) -> list[Relation]:
    """``X[n (g i) …] W[(g o) i …] → Y[n (g o) …]``, both minus their zero points."""
    pair.same_attributes("group")
    one, two = _weights(pair, 0)
    need(one.shape[2:] == two.shape[2:], "another kernel")
    groups, x = pair.number("group", 1), _inputs(pair)
    outputs = (one.shape[0] // groups[0], two.shape[0] // groups[1])
    sizes = [s[1] for s in pair.sizes(0)]
    need(sizes == [g * w.shape[1] for g, w in zip(groups, (one, two), strict=True)], "other channels")
    inputs = channels(x, groups, (one.shape[1], two.shape[1]))
    sparse, dense = (
        w.reshape(g, -1, w.shape[1], w[0, 0].size) for w, g in zip((one, two), groups, strict=True)
    )
    made = merged(Layer(inputs, sparse, dense, {}, pair.padded).related(), groups, outputs)
    need(made.shift is None, "removed channels are not known to add nothing")
    return [on_channels(made, x)]
