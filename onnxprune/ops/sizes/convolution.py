"""Convolutions and pooling: windows that move along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.algebra.sizes.algebra import Extent, Value, ceil_div, floor_div, less, trunc_div
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import INT32, INT64, Shape
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


def windows(node: SizedNode, sizes: Sequence[Extent], kernel: Sequence[Extent]) -> list[Value]:
    """Return the number of windows along each spatial axis."""
    count = len(sizes)
    if len(kernel) != count:
        raise ContradictionError(f"a kernel of {len(kernel)} axes does not fit {count}")
    strides = node.attribute("strides") or [1] * count
    dilations = node.attribute("dilations") or [1] * count
    pads = node.attribute("pads") or [0] * 2 * count
    auto = node.attribute("auto_pad", "NOTSET")
    found: list[Value] = []
    for k, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            found.append(ceil_div(size, strides[k]))
            continue
        before, after = (pads[k], pads[count + k]) if auto == "NOTSET" else (0, 0)
        room = size + before + after - (dilations[k] * (width - 1) + 1)
        if isinstance(room, int) and room < 0 and node.operator.endswith("Pool"):
            found.append(_small_pool(node, room, strides[k], k + 2))
            continue
        node.need_nonnegative(room, f"one window along axis {k + 2}")
        if node.flag("ceil_mode"):
            fit = ceil_div(room, strides[k]) + 1
            outside = less(size + before - 1, (fit - 1) * strides[k])
            found.append(fit - outside)  # a window that starts beyond the end is left out
        else:
            found.append(floor_div(room, strides[k]) + 1)
    return found


def _small_pool(node: SizedNode, room: int, stride: int, axis: int) -> int:
    """Return onnxruntime's size for a window larger than its operand: it divides towards zero."""
    count = trunc_div(room, stride) + 1
    if not isinstance(count, int) or count < 0:
        raise ContradictionError(f"no window fits along axis {axis}: it is {-room} elements too large")
    return count


def _convolved(node: SizedNode, shape: Shape | None, weight: Shape | None) -> list[Value] | None:
    if shape is None and weight is None:
        return None
    if weight is None or shape is None:
        return _only_rank(node, shape, weight)
    if len(shape) != len(weight) or len(shape) < 3:
        raise ContradictionError(f"weights of {len(weight)} axes do not fit an operand of {len(shape)}")
    kernel = _kernel(node, weight)
    node.same(shape[1], weight[1] * node.attribute("group", 1), "channels")
    return [shape[0], weight[0], *windows(node, shape[2:], kernel)]


def _kernel(node: SizedNode, weight: Shape) -> list[Extent]:
    """Return the sizes of the windows: those of the weight, which an attribute may repeat."""
    listed = node.attribute("kernel_shape")
    if not listed:
        return list(weight[2:])
    if len(listed) != len(weight) - 2:
        raise ContradictionError(f"a window of {len(listed)} axes does not fit weights of {len(weight)}")
    for size, own in zip(listed, weight[2:], strict=True):
        node.same(size, own, "sizes of the window")
    return list(listed)


def _one_for_each(node: SizedNode, place: int, count: Value) -> None:
    """Compare the length of a bias with the number of maps."""
    bias = node.shape(place) if node.has(place) else None
    if bias is not None and len(bias) == 1:
        node.same(bias[0], count, "numbers of the bias")


def _only_rank(node: SizedNode, shape: Shape | None, weight: Shape | None) -> list[Value]:
    rank = len(shape or weight or ())
    first = shape[0] if shape is not None else node.fresh(0, 0)
    second = weight[0] if weight is not None else node.fresh(0, 1)
    return [first, second, *(node.fresh(0, k) for k in range(2, rank))]


@size_rule("Conv")
@size_rule("FusedConv", domain=MICROSOFT)
def convolution(node: SizedNode) -> None:
    """As many maps as there are kernels."""
    weight = node.shape(1)
    node.put(0, _convolved(node, node.shape(), weight))
    if weight is not None:
        _one_for_each(node, 2, weight[0])


@size_rule("ConvInteger")
def convolution_of_integers(node: SizedNode) -> None:
    """As Conv, in 32 bit integers."""
    node.put(0, _convolved(node, node.shape(), node.shape(1)), INT32)


@size_rule("QLinearConv")
@size_rule("QLinearConv", domain=MICROSOFT)
def quantized_convolution(node: SizedNode) -> None:
    """As Conv, quantised; com.microsoft's may have its channels last."""
    shape = node.shape()
    last = node.flag("channels_last")
    if last and shape is not None:
        shape = (shape[0], shape[-1], *shape[1:-1])
    weight = node.shape(3)
    found = _convolved(node, shape, weight)
    if weight is not None:
        _one_for_each(node, 8, weight[0])
    if last and found is not None:
        found = [found[0], *found[2:], found[1]]
    node.put(0, found, node.kind(7))


@size_rule("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def convolution_channels_last(node: SizedNode) -> None:
    """As Conv, the channels last."""
    shape, weight = node.shape(), node.shape(1)
    if shape is None or weight is None:
        node.put(0, None)
        return
    found = _convolved(node, (shape[0], shape[-1], *shape[1:-1]), (weight[0], weight[-1], *weight[1:-1]))
    node.put(0, None if found is None else [found[0], *found[2:], found[1]])


@size_rule("DeformConv")
def deformed_convolution(node: SizedNode) -> None:
    """As Conv."""
    node.put(0, _convolved(node, node.shape(), node.shape(1)))


@size_rule("MaxPool", "AveragePool", "LpPool")
@size_rule("MaxpoolWithMask", domain=MICROSOFT)
def pool(node: SizedNode) -> None:
    """Windows of each map, and where the largest was."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        node.put(1, None, INT64)
        return
    found = [*shape[:2], *windows(node, shape[2:], node.attribute("kernel_shape", ()))]
    node.put(0, found)
    node.put(1, found, INT64)


@size_rule("QLinearAveragePool", domain=MICROSOFT)
def quantized_pool(node: SizedNode) -> None:
    """Windows of each map, its channels first or last."""
    shape = node.shape()
    last = node.flag("channels_last")
    if shape is None:
        node.put(0, None)
        return
    spatial = shape[1:-1] if last else shape[2:]
    found = windows(node, spatial, node.attribute("kernel_shape", ()))
    node.put(0, [shape[0], *found, shape[-1]] if last else [*shape[:2], *found])


@size_rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
@size_rule("QLinearGlobalAveragePool", domain=MICROSOFT)
def global_pool(node: SizedNode) -> None:
    """One number a map."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
    elif node.flag("channels_last"):
        node.put(0, [shape[0], *(1 for _ in shape[2:]), shape[-1]])
    else:
        node.put(0, [*shape[:2], *(1 for _ in shape[2:])])


@size_rule("ConvTranspose")
def transposed_convolution(node: SizedNode) -> None:
    """Windows laid out, or a size of the file."""
    shape, weight = node.shape(), node.shape(1)
    if shape is None or weight is None:
        node.put(0, None if shape is None and weight is None else _only_transposed_rank(node, shape, weight))
        return
    node.same(shape[1], weight[0], "channels")
    group = node.attribute("group", 1)
    _one_for_each(node, 2, weight[1] * group)
    node.put(0, [shape[0], weight[1] * group, *_laid_out(node, shape, weight)])


def _only_transposed_rank(node: SizedNode, shape: Shape | None, weight: Shape | None) -> list[Value]:
    rank = len(shape or weight or ())
    first = shape[0] if shape is not None else node.fresh(0, 0)
    second: Value = node.fresh(0, 1) if weight is None else weight[1] * node.attribute("group", 1)
    return [first, second, *(node.fresh(0, k) for k in range(2, rank))]


def _laid_out(
    node: SizedNode, shape: Shape, weight: Shape, given: Sequence[Value] | None = None
) -> list[Value]:
    count = len(shape) - 2
    kernel = _kernel(node, weight)
    strides = node.attribute("strides") or [1] * count
    dilations = node.attribute("dilations") or [1] * count
    pads: Sequence[Value] = given or node.attribute("pads") or [0] * 2 * count
    more = node.attribute("output_padding") or [0] * count
    listed, auto = node.attribute("output_shape"), node.attribute("auto_pad", "NOTSET")
    if listed:
        return list(listed[-count:])
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return [size * stride for size, stride in zip(shape[2:], strides, strict=True)]
    if auto == "VALID":
        pads = [0] * 2 * count
    return [
        (shape[2 + k] - 1) * strides[k]
        + more[k]
        + dilations[k] * (kernel[k] - 1)
        + 1
        - pads[k]
        - pads[count + k]
        for k in range(count)
    ]


@size_rule("NhwcMaxPool", domain=MICROSOFT)
def pool_channels_last(node: SizedNode) -> None:
    """Windows of each map, the channels last."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    node.put(0, [shape[0], *windows(node, shape[1:-1], node.attribute("kernel_shape", ())), shape[-1]])


@size_rule("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def transposed_convolution_with_pads(node: SizedNode) -> None:
    """Windows laid out; the borders that are cropped are an operand."""
    shape, weight, pads = node.shape(), node.shape(1), node.elements(2) if node.has(2) else None
    if shape is None or weight is None or (node.has(2) and pads is None):
        known = shape or weight
        node.put(0, None if known is None else _only_transposed_rank(node, shape, weight))
        return
    node.same(shape[1], weight[0], "channels")
    found = [shape[0], weight[1] * node.attribute("group", 1), *_laid_out(node, shape, weight, pads)]
    node.put(0, found)


@size_rule("MaxUnpool")
def unpool(node: SizedNode) -> None:
    """The size before pooling: given, or the smallest possible."""
    shape = node.shape()
    given = node.elements(2) if node.has(2) else None
    if shape is None:
        node.put(0, None)
    elif node.has(2):
        sizes = [node.fresh(0, k) for k in range(len(shape))] if given is None else given
        node.put(0, sizes)
    else:
        count = len(shape) - 2
        kernel = node.attribute("kernel_shape")
        strides = node.attribute("strides") or [1] * count
        pads = node.attribute("pads") or [0] * 2 * count
        spatial = [
            (shape[2 + k] - 1) * strides[k] + kernel[k] - pads[k] - pads[count + k] for k in range(count)
        ]
        node.put(0, [*shape[:2], *spatial])
