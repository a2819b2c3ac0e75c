"""Pools."""

from __future__ import annotations

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.indexing import scattered
from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Gradient, Tape, elements
from onnxprune.train.pullbacks.writer import ints


@forward("MaxPool")
def indexed_max_pool(node: ForwardNode, tape: Tape) -> None:
    """The node with the indices of the maxima as a further result."""
    places = node.output(1) or tape.writer.name("places")
    node.saved["places"] = places
    if node.attributes.get("storage_order"):
        raise Untrainable("it counts positions column by column")
    tape.keep(node, [node.outputs[0], places])


@pullback("MaxPool")
def max_pool(node: ForwardNode, tape: Tape) -> None:
    """The gradient where the maxima were; added up where windows overlap."""
    write, x, y = tape.writer, node.inputs[0], node.outputs[0]
    own, made, arrived = tape.dims(x), tape.dims(y), tape.gradient(y)
    kernel = node.attributes["kernel_shape"]
    strides = node.attributes.get("strides") or [1] * len(kernel)
    dilated = max(node.attributes.get("dilations") or [1]) > 1
    if all(stride >= taps for stride, taps in zip(strides, kernel, strict=True)) and not dilated:
        places = node.saved["places"]
        tape.give(x, write("MaxUnpool", arrived, places, ints(own), kernel_shape=kernel, strides=strides))
        return
    count = elements(made)
    rows = write.reshape(arrived, [count, 1])
    table = scattered(write, elements(own), node.saved["places"], rows, 1, count)
    tape.give(x, write.reshape(table, own))


@pullback("GlobalAveragePool")
def global_average_pool(node: ForwardNode, tape: Tape) -> None:
    """The gradient over the number of positions, repeated."""
    x, arrived = node.inputs[0], tape.carried(node.outputs[0])
    own = tape.dims(x)
    if arrived.factor and arrived.axis > 1:
        arrived = Gradient(tape.full(arrived, len(own)))
    share = tape.writer.mul(arrived.value, 1.0 / elements(own[2:]))
    tape.give(x, tape.writer("Expand", share, ints(own)), arrived.factor, arrived.axis)
