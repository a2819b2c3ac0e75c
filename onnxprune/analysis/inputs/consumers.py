"""Conditions that operators put on the values of their operands: rows, masks, lengths, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import onnx

from onnxprune.analysis.inputs.demand import ValueDemand
from onnxprune.analysis.inputs.value_facts import ValueFacts
from onnxprune.ir import attributes
from onnxprune.ops.spec import MICROSOFT, entry, spec_of

Found: TypeAlias = Iterator[tuple[int, ValueDemand]]
Consumer: TypeAlias = Callable[[onnx.NodeProto, ValueFacts], Found]

ONES = ValueDemand(wish=1)
ADDED = ValueDemand(wish=0)
"""A mask that is added: 0 leaves all elements in."""
FEW = 8
"""The largest count that is drawn where a value determines an amount of work."""
_SMALLEST = 1e-3
"""The smallest operand of a logarithm that is drawn."""
BOTH = ("", MICROSOFT)
_selecting: set[Consumer] = set()
"""Rules with conditions on all but the first operand: none are to be found where the rest is fixed."""


def demanded(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    """Yield the conditions of an operator on its operands, each with the number of the operand.

    Args:
        node: The node.
        facts: Facts about the model's tensors.
    """
    consumer = spec_of(node).demands
    if consumer is None:
        return
    settled = consumer in _selecting and all(i in facts.fixed for i in node.input[1:] if i)
    if not settled:
        for operand, demand in consumer(node, facts):
            if operand < len(node.input) and node.input[operand]:
                yield operand, demand


def _of(
    *operators: str, domains: Sequence[str] = ("",), selects: bool = False
) -> Callable[[Consumer], Consumer]:
    def add(consumer: Consumer) -> Consumer:
        for domain in domains:
            entry("demands", *operators, domain=domain)(consumer)
        if selects:
            _selecting.add(consumer)
        return consumer

    return add


def _rows(facts: ValueFacts, table: str, axis: int = 0, taken: int = 0) -> ValueDemand:
    """Return the condition on indices into an axis of a tensor, so many steps behind them included."""
    size = facts.axis(table, axis)
    return ValueDemand(least=0, most=None if size is None else max(size - 1 - taken, 0), index=True)


def _exactly(size: int | None, *more: int | None) -> ValueDemand:
    """Return the condition that a value is a size, or a sum of sizes; lengths where a size is not known."""
    sizes = (size, *more)
    if any(s is None for s in sizes):
        return ValueDemand(least=1, length=True)
    return ValueDemand(wish=sum(s for s in sizes if s is not None), firm=True)


def _count(facts: ValueFacts, name: str, axis: int) -> ValueDemand:
    size = facts.axis(name, axis)
    return ValueDemand(least=1, most=FEW if size is None else size)


def _operand(node: onnx.NodeProto, number: int) -> str:
    return node.input[number] if number < len(node.input) else ""


@_of("Gather", "GatherElements", "ScatterElements", "Scatter", selects=True)
def _selects(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, _rows(facts, node.input[0], attributes(node).get("axis", 0))


@_of("GatherBlockQuantized", domains=(MICROSOFT,), selects=True)
def _selects_blocks(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, _rows(facts, node.input[0], attributes(node).get("gather_axis", 0))


@_of("GatherND", "ScatterND", domains=BOTH, selects=True)
def _selects_parts(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    table, places = facts.size(node.input[0]), facts.size(node.input[1])
    first = attributes(node).get("batch_dims", 0)
    most = None
    if table is not None and places:
        most = min((s - 1 for s in table[first : first + places[-1]]), default=None)
    yield 1, ValueDemand(least=0, most=most, index=True)


@_of("OneHot")
def _one_hot(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    depth = facts.number(node.input[1])
    yield 0, ValueDemand(least=0, most=None if depth is None else depth - 1, index=True)
    yield 1, ValueDemand(least=1, most=FEW)


@_of("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def _labels(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, _rows(facts, node.input[0], 1)


@_of("EmbedLayerNormalization", "QEmbedLayerNormalization", domains=(MICROSOFT,))
def _embeds(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, _rows(facts, node.input[2])
    if _operand(node, 1):
        yield 1, _rows(facts, _operand(node, 4))
    if node.op_type == "EmbedLayerNormalization":
        yield 7, ONES
        yield 8, _rows(facts, node.input[3])


@_of("RotaryEmbedding", "GemmaRotaryEmbedding", domains=BOTH)
def _rotates(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    """Positions select rows of the caches; com.microsoft's operator may have the first position alone."""
    places, table = (1, 2) if node.domain == MICROSOFT else (3, 1)
    if not _operand(node, places):
        return
    size = facts.size(node.input[places])
    steps = facts.axis(node.input[0], -2) if size in ((1,), ()) else None
    yield places, _rows(facts, node.input[table], taken=(steps or 1) - 1)


@_of("GroupQueryAttention", "SparseAttention", domains=(MICROSOFT,))
def _grouped_attention(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    past, steps = facts.axis(_operand(node, 3), 2), facts.axis(node.input[0], 1)
    past = 0 if not _operand(node, 3) else past
    lengths, total, cos = (5, 6, 7) if node.op_type == "GroupQueryAttention" else (8, 7, 9)
    if node.op_type == "GroupQueryAttention":
        yield lengths, _exactly(past, steps, -1)
        yield 9, _rows(facts, _operand(node, cos))
        yield 10, ADDED
    else:
        yield lengths, _exactly(past, steps)
    yield total, _exactly(past, steps)


@_of("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", domains=(MICROSOFT,))
def _multi_head_attention(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    mask = facts.size(_operand(node, 4))
    keys = facts.axis(_operand(node, 1), 1) if _operand(node, 1) else facts.axis(node.input[0], 1)
    yield 4, _exactly(keys) if mask is not None and len(mask) == 1 else ONES
    yield 5, ADDED
    yield 7 if node.op_type.startswith("Decoder") else 8, ValueDemand(least=0, most=0)


@_of("Attention", domains=BOTH)
def _attention(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    if node.domain == MICROSOFT:
        mask = facts.size(_operand(node, 3))
        yield 3, _exactly(facts.axis(node.input[0], 1)) if mask is not None and len(mask) == 1 else ONES
        yield 5, ADDED
        return
    boolean = facts.types.get(facts.outer(_operand(node, 3))) == onnx.TensorProto.BOOL
    yield 3, ONES if boolean else ADDED
    yield 6, _exactly(facts.axis(node.input[1], -2))


@_of("DecoderAttention", "LongformerAttention", domains=(MICROSOFT,))
def _other_attention(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 2 if node.op_type == "LongformerAttention" else 4, ONES


@_of("Softmax")
def _softmax(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, ValueDemand(adds=True)


@_of("RNN", "GRU", "LSTM")
def _recurrence(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 4, _exactly(facts.axis(node.input[0], 1 if attributes(node).get("layout", 0) else 0))


@_of("ReverseSequence")
def _reverses(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, _exactly(facts.axis(node.input[0], attributes(node).get("time_axis", 0)))


@_of("TopK", selects=True)
def _largest(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, _count(facts, node.input[0], attributes(node).get("axis", -1))


@_of("NonMaxSuppression")
def _suppresses(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 2, ValueDemand(least=1, most=FEW)
    yield 3, ValueDemand(least=0.5, most=0.5)


@_of("Range", domains=BOTH)
def _range(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, ValueDemand(least=0, most=0)
    yield 1, ValueDemand(least=1, most=4 * FEW)
    yield 2, ValueDemand(least=1, most=1)


@_of("ConstantOfShape", "Loop")
def _counts(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, ValueDemand(least=1, most=FEW)
    if node.op_type == "Loop":
        yield 1, ONES


@_of("Expand", "Reshape", "Tile", selects=True)
def _shapes(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, ValueDemand(least=1, most=FEW)


@_of("Resize", "Upsample", selects=True)
def _resizes(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    scales = 2 if node.op_type == "Resize" and len(node.input) > 2 else 1
    yield scales, ValueDemand(least=1, most=2)
    yield 3, ValueDemand(least=1, most=4 * FEW)


@_of("Pad", domains=BOTH, selects=True)
def _pads(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, ValueDemand(least=0, most=FEW)


@_of("Slice", selects=True)
def _slices(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    size = facts.size(node.input[0])
    yield 1, ValueDemand(least=0, most=0)
    yield 2, ValueDemand(least=1, most=min(size) if size and min(size) > 0 else FEW)
    yield 4, ValueDemand(least=1, most=1)


@_of("BitShift")
def _shifts(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 1, ValueDemand(least=0, most=FEW - 1)


@_of("Div", "Mod")
def _divides(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    """A whole number that divides is not zero."""
    if facts.types.get(facts.outer(node.input[1])) in _WHOLE:
        yield 1, ValueDemand(least=1)


@_of("Log")
def _logarithm(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, ValueDemand(least=_SMALLEST)


@_of("Sqrt")
def _root(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, ValueDemand(least=0)


@_of("If")
def _branches(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    yield 0, ValueDemand(chooses=True)


@_of("Equal")
def _compares(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    """Whole numbers are compared one by one; numbers that choose a branch are found on the way back."""
    for one, other in ((0, 1), (1, 0)):
        value = facts.number(node.input[other])
        if value is not None and np.isfinite(value):
            yield one, ValueDemand(compared=(value,))


@_of("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _orders(node: onnx.NodeProto, facts: ValueFacts) -> Found:
    """A value compared with a range of steps is a sequence length."""
    for one, other in ((0, 1), (1, 0)):
        name, steps = node.input[one], node.input[other]
        if name not in facts.plain or (facts.span(steps) is not None and facts.number(steps) is not None):
            continue
        if steps in facts.fixed:
            size = facts.size(steps)
            if size is None or max(size, default=1) > 1:
                yield one, _exactly(max(size) if size else None)
        elif facts.counts(steps):
            yield one, ValueDemand(least=1, length=True)


_WHOLE = frozenset(
    getattr(onnx.TensorProto, n) for n in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)
