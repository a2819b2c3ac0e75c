"""Normalisations."""

from __future__ import annotations

import numpy as np

from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Tape, elements


@forward("BatchNormalization")
def with_batch_statistics(node: ForwardNode, tape: Tape) -> None:
    """The operator's training mode; with a momentum of 0 it returns the statistics of the batch.

    The kernel also writes its results into its operands 3 and 4, even into initializers shared with other
    nodes: it is given two vectors of its own. Running statistics follow as in the specification, the variance
    biased.
    """
    write, (x, scale, bias, mean, variance) = tape.writer, node.inputs
    own = [write.mul(vector, 0.0) for vector in (scale, bias)]
    epsilon, momentum = (node.attributes.get(k, v) for k, v in (("epsilon", 1e-5), ("momentum", 0.9)))
    names = [node.outputs[0], write.name("mean"), write.name("variance")]
    write.several(
        "BatchNormalization", x, scale, bias, *own, into=names, epsilon=epsilon, momentum=0.0, training_mode=1
    )
    node.saved["mean"] = names[1]
    node.saved["inverse"] = write("Reciprocal", write("Sqrt", write.add(names[2], epsilon)))
    for running, found in ((mean, names[1]), (variance, names[2])):
        before = write.mul(tape.statistics.get(running, running), momentum)
        tape.statistics[running] = write.add(before, write.mul(found, 1.0 - momentum))


@pullback("BatchNormalization")
def batch_normalization(node: ForwardNode, tape: Tape) -> None:
    """Dx = γ/σ · (dy − mean(dy) − x̂·mean(dy·x̂)); the factor in front is left for others to apply.

    In inference mode the operator is a multiplication and an addition for each channel in one pass.
    """
    write, (x, scale, bias) = tape.writer, node.inputs[:3]
    dims, arrived = tape.dims(x), tape.carried(node.outputs[0])
    dy, carried = arrived.value, arrived.factor
    if carried and arrived.axis != 1:
        dy, carried = tape.full(arrived, len(dims)), ""
    count = elements(dims) / dims[1]
    axes = [axis for axis in range(len(dims)) if axis != 1]
    mean, inverse = node.saved["mean"], node.saved["inverse"]
    total = write.total(dy, axes)
    product = write.total(write.mul(dy, x), axes)
    slope = write.mul(inverse, write.sub(product, write.mul(mean, total)))
    tape.give(scale, write.mul(slope, carried) if carried else slope)
    tape.give(bias, write.mul(total, carried) if carried else total)
    if not tape.wants(x):
        return
    ones = np.ones(dims[1], np.float32)
    rest = write(
        "BatchNormalization",
        x,
        write.mul(write.mul(inverse, slope), -1.0 / count),
        write.mul(total, -1.0 / count),
        mean,
        ones,
        epsilon=0.0,
    )
    factor = write.mul(scale, inverse)
    tape.give(x, write.add(dy, rest), write.mul(factor, carried) if carried else factor, 1)


@forward("LayerNormalization")
def with_statistics(node: ForwardNode, tape: Tape) -> None:
    """The node with the mean and the inverse deviation as further results."""
    names = [node.outputs[0]]
    for index, key in ((1, "mean"), (2, "inverse")):
        node.saved[key] = node.output(index) or tape.writer.name(key)
        names.append(node.saved[key])
    tape.keep(node, names)


@pullback("LayerNormalization")
def layer_normalization(node: ForwardNode, tape: Tape) -> None:
    """Dx = (g − mean(g) − x̂·mean(g·x̂)) / σ with g = dy·γ; the means are products with γ over the size."""
    write, (x, scale) = tape.writer, node.inputs[:2]
    dims, arrived = tape.dims(x), tape.gradient(node.outputs[0])
    axis = node.attributes.get("axis", -1) % len(dims)
    rows, size = elements(dims[:axis]), elements(dims[axis:])
    weights = tape.dims(scale)
    dy, flat = write.reshape(arrived, [rows, size]), write.reshape(x, [rows, size])
    mean = write.reshape(node.saved["mean"], [rows, 1])
    inverse = write.reshape(node.saved["inverse"], [rows, 1])
    standard = write.mul(write.sub(flat, mean), inverse)
    product = write.mul(dy, standard)
    if tape.wants(scale):
        tape.give(scale, write.reshape(write.total(product, [0]), weights))
    if tape.wants(node.input(2)):
        tape.give(node.inputs[2], write.reshape(write.total(dy, [0]), weights))
    if not tape.wants(x):
        return
    column = write.mul(write.reshape(scale, [size, 1]), 1.0 / size)
    first, second = write("MatMul", dy, column), write("MatMul", product, column)
    scaled = write.mul(dy, write.reshape(scale, [1, size]))
    inner = write.sub(write.sub(scaled, first), write.mul(standard, second))
    tape.give(x, write.reshape(write.mul(inverse, inner), dims))
