"""Mixtures of experts: the width of the experts, and whole experts with their rows of the router.

Letters: ``e`` experts, ``i`` their hidden channels, ``h`` channels of inputs and results. The first weights
have a row for each hidden channel, or two where a gate and its value lie side by side.

An expert goes where the bias of its router is so low that it is never chosen. Masking writes no zeros
there (see `Context.switches_off`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import TensorProto

from onnxprune.algebra.axes import Dim, Factor, nested
from onnxprune.algebra.sizes.algebra import exact_quotient
from onnxprune.ir.canonical.routers import ROUTER, bias_of
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import Zeros, rule
from onnxprune.ops.axes.variables import Indexing, Keys
from onnxprune.ops.spec import MICROSOFT
from onnxprune.ops.views import INNER, LinearView, Operands

NO_BIAS = "its router has no bias of its own that could switch an expert off"
PACKED = "several of its weights share a byte"
BLOCKS = "its weights share a scale in blocks"
GATED = ("swiglu", "geglu")


def _second_layer(zeros: Zeros) -> bool:
    """A channel is zero where the second weights and their bias make it zero."""
    return zeros[4] is True and all(z is True for z in zeros[5:6])


def _layers(o: Operands) -> list[LinearView]:
    """Return the linear views of the layers of the experts, ``[experts, outputs, inputs]``."""
    views = [LinearView(data, -1, weights, -1, "stack", after="mixing") for data, weights in _ORDER[1]]
    return [view for view in views if o.rank(view.weights) is not None]


def _packed_layers(o: Operands) -> list[LinearView]:
    """Return the same of integers that share bytes, and scales in blocks."""
    views = [
        LinearView(data, -1, k, -1, "blocks", after="mixing", integers=True, scales=k + 1, summed=2)
        for data, k in _ORDER[2]
    ]
    return [view for view in views if o.rank(view.weights) is not None]


_ORDER = {1: ((0, 2), (INNER, 4), (0, 6)), 2: ((0, 2), (INNER, 5), (0, 8))}
"""The data and the weights of the layers of MoE, 1, and QMoE, 2."""


@rule(
    "MoE",
    domain=MICROSOFT,
    zero=_second_layer,
    linear=_layers,
    parameters=(2, 3, 4, 5, 6, 7),
    trainable=False,
)
def mixture(c: Context) -> None:
    """Two layers for each expert, the first of which may have a gate in a third weight."""
    e, i, h = _hidden(c, first=2, second=4, third=6)
    _layer(c, 2, e, _rows(c, 2, i), h)
    _layer(c, 4, e, h, i)
    if c.has(6):
        _layer(c, 6, e, i, h)
    c.contract(i, 4)
    c.contract(h, 0, *(k for k in (2, 6) if c.has(k)))
    c.weights(2, 3, 4, 5, 6, 7)
    _route(c, e)
    _run_along(c, e, i, h, {2: "inner", 3: "inner", 4: "outer", 5: "outer", 6: "gates", 7: "gates"})
    _finish(c, h, (_rows(c, 2, i), i, *((i,) if c.has(6) else ())))


def _second_scales(zeros: Zeros) -> bool:
    """A channel is zero where the scales of the second weights are, and their bias."""
    return zeros[6] is True and all(z is True for z in zeros[7:8])


@rule(
    "QMoE",
    domain=MICROSOFT,
    zero=_second_scales,
    linear=_packed_layers,
    parameters=(2, 3, 4, 5, 6, 7, 8, 9, 10),
    trainable=False,
)
def quantised_mixture(c: Context) -> None:
    """As MoE, over integers that share scales; masking sets scales to zero.

    Only weights as they are quantised are followed, not those in an order of some device.
    """
    if c.attributes.get("quant_type", "int") != "int" or c.attributes.get("weights_prepacked", -1) == 1:
        raise UnknownOperandError("its weights are packed in a form of one device")
    e, i, h = _hidden(c, first=2, second=5, third=8)
    c.contract(i, 3)
    c.contract(h, 0)
    rows = _rows(c, 2, i)
    for weight, zeros, outer, inner in ((2, 11, rows, h), (5, 12, h, i), (8, 13, i, h)):
        if c.has(weight):
            _packed(c, weight, zeros, e, outer, inner)
    if c.has(14):
        c.same(c.axes(14)[-1], e)
    c.weights(3, 4, 6, 7, 9, 10)
    _route(c, e)
    layers = [layer for layer in ("inner", "outer", "gates") for _ in range(3)]
    _run_along(c, e, i, h, dict(enumerate(layers, 2)))
    _finish(c, h, (rows, i, *((i,) if c.has(8) else ())))


def _hidden(c: Context, first: int, second: int, third: int) -> tuple[Factor, Factor, Dim]:
    """Return experts, hidden channels, and the axis that goes in."""
    rows, experts = c.count(c.axes(first)[1].size), c.axes(first)[0].size
    gated = c.attributes.get("activation_type", "relu") in GATED and not c.has(third)
    if gated and c.attributes.get("swiglu_fusion", 0) not in (1, 2):
        raise UnknownOperandError("the layout of its gates is not stated")
    width = rows // 2 if gated else rows
    if gated and rows % 2:
        raise UnknownOperandError("its gates and values are not as many")
    every = Factor(experts)
    c.plays("experts", every)
    return every, Factor(width), c.axes(0)[-1]


def _rows(c: Context, first: int, i: Dim) -> Dim:
    """Return the rows of the first weights: hidden channels, with their gates where those are beside."""
    if c.axes(first)[1].size == i.size:
        return i
    two = c.fixed(2, "a gate and its value")
    return nested((i, two) if c.attributes["swiglu_fusion"] == 1 else (two, i))


def _layer(c: Context, weight: int, e: Dim, outer: Dim, inner: Dim) -> None:
    """Line up the weights of one layer, ``[e, outer, inner]``, and its bias, the next operand."""
    for dim, axis in zip(c.axes(weight), (e, outer, inner), strict=True):
        c.same(dim, axis)
    if c.has(weight + 1):
        for dim, axis in zip(c.axes(weight + 1), (e, outer), strict=True):
            c.same(dim, axis)


def _packed(c: Context, weight: int, zeros: int, e: Dim, outer: Dim, inner: Dim) -> None:
    """Line up the integers of one layer, its scales, its bias and its zero points."""
    experts, rows, packed = c.axes(weight)
    c.same(experts, e)
    c.same(rows, outer)
    _in_packs(c, inner, packed, PACKED)
    if not c.has(weight + 1):
        raise UnknownOperandError("its weights have no scales")
    scales = c.axes(weight + 1)
    for dim, axis in zip(scales[:2], (e, outer), strict=True):
        c.same(dim, axis)
    if len(scales) > 2:
        _in_packs(c, inner, scales[2], BLOCKS)
    if c.has(weight + 2):
        for dim, axis in zip(c.axes(weight + 2), (e, outer), strict=True):
            c.same(dim, axis)
    if c.has(zeros):
        points = c.axes(zeros)
        c.same(points[0], e)
        if len(points) == 2:
            _in_packs(c, outer, points[1], PACKED)
        else:
            c.same(points[1], outer)
            _in_packs(c, scales[2], points[2], PACKED)


def _in_packs(c: Context, dim: Dim, packs: Dim, reason: str) -> None:
    """State that several elements of one axis lie in each element of another."""
    if dim.size == packs.size:
        c.same(dim, packs)
    elif (each := exact_quotient(dim.size, packs.size)) is not None:
        c.same(dim, nested((packs, c.fixed(each, reason))))
    else:
        for other in (dim, packs):
            c.block(other, reason)


def _route(c: Context, e: Dim) -> None:
    """Line up the logits, and state how an expert is switched off."""
    rows, logits = c.axes(ROUTER)
    c.same(rows, nested(c.axes(0)[:-1]))
    c.same(logits, e)
    name = c.node.input[ROUTER]
    bias = bias_of(c.typing.nodes, c.typing.model.constants, name)
    if not bias or c.attributes.get("use_sparse_mixer"):
        c.block(e, "it mixes the best two experts in a way of its own" if bias else NO_BIAS)
        return
    half = c.typing.model.constants[bias].data_type == TensorProto.FLOAT16
    c.switches_off(e, bias, -1e4 if half else -1e30)
    c.caps_attribute("k", e)


def _run_along(c: Context, e: Dim, i: Dim, h: Dim, layers: Mapping[int, str]) -> None:
    """State which axes are one index: channels of inputs and of results are two, of one kind.

    Args:
        c: The node.
        e: Experts.
        i: Hidden channels.
        h: Channels of the inputs and of the results.
        layers: Layer of each operand: ``inner`` and ``gates`` make hidden channels of the inputs,
            ``outer`` makes the results of them.
    """
    lead = c.axes(0)[:-1]
    rows = [f"row {k}" for k in range(len(lead))]
    variables = {"expert": e, "hidden": i, "in": h, "out": h, **dict(zip(rows, lead, strict=True))}
    beside = (("hidden",), ("in",)), (("out",), ("hidden",))
    operands: dict[int, tuple[Keys, ...]] = {
        0: (*((row,) for row in rows), ("in",)),
        ROUTER: (tuple(rows), ("expert",)),
    }
    for operand, layer in layers.items():
        if c.has(operand):
            axes = (("expert",), *beside[layer == "outer"])
            operands[operand] = axes[: len(c.axes(operand))]
    c.runs_along(Indexing(variables, operands, {0: (*((row,) for row in rows), ("out",))}))


def _finish(c: Context, h: Dim, widths: Sequence[Dim]) -> None:
    """State the result and the work: the layers of the experts that are chosen, for each row."""
    lead = c.axes(0)[:-1]
    c.define(0, [*lead, h])
    chosen = c.fixed(int(c.attributes.get("k", 1)), "so many experts are chosen")
    for width in widths:
        c.works(*lead, chosen, width, h)
