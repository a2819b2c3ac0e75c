"""The loss that is an operator of its own."""

from __future__ import annotations

import numpy as np

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Tape
from onnxprune.train.pullbacks.writer import ints


@forward("SoftmaxCrossEntropyLoss")
def cross_entropy(node: ForwardNode, tape: Tape) -> None:
    """Mean negative log-likelihood, spelled out so that the pullback finds its parts.

    Classes lie on axis 1 of the logits. The mean is over the class weights of the labels that count.
    """
    if node.attributes.get("reduction", b"mean") not in (b"mean", "mean"):
        raise Untrainable("it does not return a mean")
    write, (logits, labels) = tape.writer, node.inputs[:2]
    classes, ignored = tape.dims(logits)[1], node.attributes.get("ignore_index")
    counted = labels
    if ignored is not None:
        valid = write("Not", write("Equal", labels, np.array(ignored, np.int64)))
        counted = write("Where", valid, labels, np.array(0, np.int64))
    hot = write("OneHot", counted, np.array(classes, np.int64), np.array([0, 1], np.float32), axis=1)
    if node.input(2):
        weights = write.reshape(node.inputs[2], [classes, *[1] * (tape.rank(logits) - 2)])
        hot = write.mul(hot, weights)
    if ignored is not None:
        hot = write.mul(hot, write("Unsqueeze", write.floats(valid), ints([1])))
    own = node.output(1) or write.name("log_probabilities")
    write("LogSoftmax", logits, axis=1, into=own)
    every = list(range(tape.rank(logits)))
    share = write.div(hot, write.total(hot, every))
    write("Neg", write.total(write.mul(share, own), every), into=node.outputs[0])
    node.saved.update(share=share, logarithms=own)


@pullback("SoftmaxCrossEntropyLoss")
def probabilities_without_labels(node: ForwardNode, tape: Tape) -> None:
    """(softmax − one-hot), each column times its share of the mean."""
    write, share = tape.writer, node.saved["share"]
    probabilities = write("Exp", node.saved["logarithms"])
    column = write.total(share, [1], keepdims=True)
    slope = write.sub(write.mul(probabilities, column), share)
    tape.give(node.inputs[0], write.mul(slope, tape.gradient(node.outputs[0])))
