"""Sizes behind windows that move along spatial axes, and behind changed borders and scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx

from onnxprune.certify.sizes.size_monomials import Monomial, Size, computed, over, product, size_of, times
from onnxprune.certify.sizes.size_rules import Sizes, placed, rule

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph

POOLS = {"MaxPool", "AveragePool", "LpPool"}
GLOBAL_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}


def windows(graph: Graph, node: onnx.NodeProto, sizes: Sequence[Size]) -> Sizes:
    """Return the sizes of spatial axes after a window has moved along."""
    given = graph.attributes(node)
    kernel: Sequence[Any] = given.get("kernel_shape") or graph.sizes[node.input[1]][2:]
    count = len(sizes)
    pads, strides = given.get("pads", [0] * 2 * count), given.get("strides", [1] * count)
    dilations = given.get("dilations", [1] * count)
    explicit = given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and node.op_type != "ConvTranspose"
    rest = {k: str(v) for k, v in sorted(given.items()) if k not in ("group", "dilations", "kernel_shape")}
    made: Sizes = []
    for axis, size in enumerate(sizes):
        reach = dilations[axis] * (kernel[axis] - 1)
        room = pads[axis] + pads[axis + count]
        if explicit and not given.get("ceil_mode") and isinstance(size, int):
            made.append(int((size + room - reach - 1) // strides[axis] + 1))
        elif explicit and strides[axis] == 1 and room == reach:
            made.append(size)
        else:
            made.append(size_of(f"{node.op_type}({size}, {kernel[axis]}, {dilations[axis]}, {axis}, {rest})"))
    return made


@rule("Conv")
def conv(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n c …] W[o …] → Y[n o …]``."""
    x, w = (graph.sizes[i] for i in node.input[:2])
    return [[x[0], w[0], *windows(graph, node, x[2:])]]


@rule("DeformConv")
def deform_conv(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n c …] W[o …] offset[n … s t] → Y[n o s t]``."""
    x, w, offset = (graph.sizes[i] for i in node.input[:3])
    return [[x[0], w[0], *offset[2:]]]


@rule("ConvTranspose")
def conv_transpose(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n c …] W[c o …] → Y[n (g o) …]``."""
    x, w = (graph.sizes[i] for i in node.input[:2])
    return [[x[0], times(w[1], graph.attributes(node).get("group", 1)), *windows(graph, node, x[2:])]]


@rule(*POOLS)
def pools(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Channels stay."""
    x = graph.sizes[node.input[0]]
    return [[*x[:2], *windows(graph, node, x[2:])]] * len(node.output)


@rule("MaxUnpool")
def max_unpool(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes given; otherwise the spatial sizes are their own."""
    if graph.has(node, 2):
        return [graph.integers(node.input[2])]
    x, given = graph.sizes[node.input[0]], {k: str(v) for k, v in graph.attributes(node).items()}
    return [[*x[:2], *(size_of(f"unpool({s}, {k}, {sorted(given.items())})") for k, s in enumerate(x[2:]))]]


@rule(*GLOBAL_POOLS)
def global_pools(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Spatial axes become one element."""
    x = graph.sizes[node.input[0]]
    return [[*x[:2], *[1] * (len(x) - 2)]]


@rule("GridSample")
def grid_sample(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n c …] grid[n s … d] → Y[n c s …]``."""
    x, grid = (graph.sizes[i] for i in node.input)
    return [[*x[:2], *grid[1:-1]]]


@rule("RoiAlign")
def roi_align(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n c h w] rois[r 4] → Y[r c s t]``."""
    x, regions = (graph.sizes[i] for i in node.input[:2])
    given = graph.attributes(node)
    return [[regions[0], x[1], given.get("output_height", 1), given.get("output_width", 1)]]


@rule("MaxRoiPool")
def regions(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n c h w] rois[r 5] → Y[r c s t]``."""
    x, listed = (graph.sizes[i] for i in node.input)
    return [[listed[0], x[1], *graph.attributes(node)["pooled_shape"]]]


@rule("Col2Im")
def columns(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[n (c b) l] → Y[n c …]``, with one ``b`` for each element of a block."""
    x, block = graph.sizes[node.input[0]], product(graph.integers(node.input[2]))
    channels = over(x[1], block)
    if channels is None:
        raise KeyError("channels of no blocks")
    return [[x[0], channels, *graph.integers(node.input[1])]]


@rule("Pad")
def pad(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Padding adds to both ends."""
    return [
        [
            computed("Add", computed("Add", s, a), b)
            for s, (a, b) in zip(graph.sizes[node.input[0]], pads(graph, node), strict=True)
        ]
    ]


def pads(graph: Graph, node: onnx.NodeProto) -> list[tuple[Any, Any]]:
    """Return the padding in front of and behind each axis of a Pad."""
    rank = len(graph.sizes[node.input[0]])
    listed = graph.listed(node, "pads", 1)
    if listed is None:
        raise KeyError("pads")
    axes = range(rank) if not graph.has(node, 3) else [placed(a, rank) for a in graph.integers(node.input[3])]
    made: list[tuple[Any, Any]] = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        made[axis] = (listed[place], listed[place + len(axes)])
    return made


@rule("Resize", "Upsample")
def resize(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes given, or scales of those of the operand."""
    given, x = graph.attributes(node), graph.sizes[node.input[0]]
    if given.get("axes") or given.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return []
    if graph.has(node, 3):
        return [graph.integers(node.input[3])]
    scales: Sequence[Any] = given.get("scales") or graph.integers(
        node.input[2 if node.op_type == "Resize" and graph.opset >= 11 else 1]
    )
    return [
        [
            s if r == 1 else times(s, int(r)) if r == int(r) else _scaled(s, r)
            for s, r in zip(x, scales, strict=True)
        ]
    ]


def _scaled(size: Size, scale: float) -> Size:
    return size_of(f"floor({size} * {scale})") if isinstance(size, Monomial) else int(size * scale)
