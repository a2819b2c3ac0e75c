"""Operators of onnxruntime's own (domain ``com.microsoft``) that its optimiser makes out of several."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import by_itself
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.convolution import conv, windows
from onnxprune.ops.axes.indexing import gather_nd, trilu
from onnxprune.ops.axes.joining import pad
from onnxprune.ops.axes.linear import gemm, gemm_views, matmul_views, matrix_product, product_and_bias
from onnxprune.ops.axes.pointwise import elementwise
from onnxprune.ops.axes.sampling import grid_sample
from onnxprune.ops.axes.table import Zeros, every, first, rule, some, weights_and_bias
from onnxprune.ops.axes.variables import Indexing
from onnxprune.ops.spec import MICROSOFT
from onnxprune.ops.views import LinearRule, LinearView, Operands

ZERO_AT_ZERO = {"", "Relu", "LeakyRelu", "Tanh", "HardSwish", "Elu", "Selu", "Softsign", "ThresholdedRelu"}

rule("Gelu", "QuickGelu", domain=MICROSOFT, zero=first, constant=by_itself, elementwise=True)(elementwise)
rule("GridSample", domain=MICROSOFT, zero=first)(grid_sample)
rule("GatherND", domain=MICROSOFT, zero=first)(gather_nd)
rule("Trilu", domain=MICROSOFT, zero=first)(trilu)
rule("Pad", domain=MICROSOFT, zero=first)(pad)
rule("SwiGLU", zero=some, constant=by_itself, elementwise=True)(elementwise)


@rule(
    "BiasGelu",
    "FastGelu",
    domain=MICROSOFT,
    zero=every,
    constant=by_itself,
    elementwise=True,
    parameters=(1,),
)
def bias_gelu(c: Context) -> None:
    """A bias is added before the activation."""
    elementwise(c)
    c.weights(1)


def _weights_bias_and_sum(zeros: Zeros) -> bool:
    return weights_and_bias(zeros) and every(zeros[3:])


def _activated(views: LinearRule) -> LinearRule:
    """Return the views of an operator that adds a fourth operand, or applies an activation, in the end."""

    def linear(o: Operands) -> list[LinearView]:
        more = bool(o.attributes.get("activation")) or o.has(3)
        return [replace(view, after="elementwise") if more else view for view in views(o)]

    return linear


@rule(
    "FusedConv",
    domain=MICROSOFT,
    zero=_weights_bias_and_sum,
    linear=_activated(windows),
    parameters=(1, 2),
)
def fused_conv(c: Context) -> None:
    """Convolution, the sum with another tensor, and an activation."""
    conv(c)
    if c.has(3):
        for dim, other in zip(c.typing.axes[c.node.output[0]], c.axes(3), strict=True):
            c.same(dim, other)
        c.runs_along(Indexing(operands={3: c.typing.indexing[c.index].results[0]}))
    _activate(c)


@rule(
    "FusedGemm",
    domain=MICROSOFT,
    zero=product_and_bias,
    linear=_activated(gemm_views),
    parameters=(0, 1, 2),
)
def fused_gemm(c: Context) -> None:
    """Gemm and an activation."""
    gemm(c)
    _activate(c)


@rule(
    "FusedMatMul",
    "TransposeMatMul",
    domain=MICROSOFT,
    zero=some,
    linear=matmul_views,
    parameters=(0, 1),
)
def fused_matmul(c: Context) -> None:
    """MatMul of operands whose last two axes may be swapped."""
    if c.attributes.get("transBatchA") or c.attributes.get("transBatchB"):
        raise UnknownOperandError("it moves batch axes")
    a, b = c.axes(0), c.axes(1)
    turned = bool(c.attributes.get("transA")), bool(c.attributes.get("transB"))
    matrix_product(c, a, b, turned=turned)
    c.weights(0, 1)


def _activate(c: Context) -> None:
    activation = c.attributes.get("activation", "")
    if activation not in ZERO_AT_ZERO:
        c.makes_no_zeros()
