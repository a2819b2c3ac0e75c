"""Sizes of results from those of operands, operator by operator, as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from onnxprune.certify.refusal import can_be, need
from onnxprune.certify.size_products import (
    Monomial,
    Size,
    computed,
    is_clipped,
    is_natural,
    is_number,
    over,
    product,
    size_of,
    times,
)

if TYPE_CHECKING:
    from onnxprune.certify.graph import Graph

Sizes: TypeAlias = "list[Size]"
Rule: TypeAlias = "Callable[[Graph, onnx.NodeProto], Sequence[Sequence[Size] | None]]"
SHAPES: dict[str, Rule] = {}
"""The rules by operator; where a size is unknown, they raise KeyError or the like."""

SAME = set(
    "Relu LeakyRelu Sigmoid Tanh Elu Selu Celu Gelu Erf Sqrt Exp Log Neg Abs HardSwish HardSigmoid Softplus "
    "Swish Softsign Reciprocal Cast CastLike Identity Floor Ceil Round Sign Mish ThresholdedRelu Not Sin Cos "
    "Tan Atan Softmax "
    "LogSoftmax Hardmax InstanceNormalization LayerNormalization GroupNormalization RMSNormalization LRN "
    "LpNormalization MeanVarianceNormalization Clip CumSum QuantizeLinear DequantizeLinear IsNaN IsInf Trilu "
    "ScatterND ScatterElements Shrink RandomNormalLike RandomUniformLike Bernoulli".split()
)
SPREAD = set(
    "Add Sub Mul Div Pow PRelu Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor Min Max Mod "
    "Sum Mean".split()
)
POOLS = {"MaxPool", "AveragePool", "LpPool"}
GLOBAL_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
REDUCTIONS = {f"Reduce{r}" for r in "Sum Mean Max Min L1 L2 SumSquare Prod LogSum LogSumExp".split()}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule for operators."""

    def enter(function: Rule) -> Rule:
        SHAPES.update(dict.fromkeys(operators, function))
        return function

    return enter


def spread(sizes: Sequence[Size]) -> Size:
    """Return the size of an axis along which operands broadcast."""
    wide = [s for s in sizes if s != 1]
    numbers = {s for s in wide if not isinstance(s, Monomial)}
    can_be(len(numbers) < 2, "sizes that cannot be broadcast")
    if numbers:
        return numbers.pop()
    if not wide:
        return 1
    whole = [s for s in wide if all(s == other or is_clipped(other, s) for other in wide)]
    return whole[0] if whole else size_of(f"broadcast({sorted(map(str, wide))})")


def broadcast(shapes: Sequence[Sequence[Size]]) -> Sizes:
    """Return the sizes of tensors that broadcast."""
    rank = max(map(len, shapes))
    wide = [[*[1] * (rank - len(s)), *s] for s in shapes]
    return [spread(sizes) for sizes in zip(*wide, strict=True)]


def placed(axis: Any, rank: int) -> int:
    """Return an axis counted from the front."""
    need(-rank <= axis < rank, "an axis beyond the rank")
    return int(axis) % rank


def slices(graph: Graph, node: onnx.NodeProto) -> list[tuple[int, Any, Any, Any]]:
    """Return axis, start, end and step of each cut of a Slice."""
    rank = len(graph.sizes[node.input[0]])
    starts, ends = graph.listed(node, "starts", 1), graph.listed(node, "ends", 2)
    if starts is None or ends is None:
        raise KeyError(node.input[0])
    axes = graph.listed(node, "axes", 3) or list(range(len(starts)))
    steps = (graph.integers(node.input[4]) if graph.has(node, 4) else None) or [1] * len(starts)
    if any(is_natural(end) and not is_natural(step) for end, step in zip(ends, steps, strict=True)):
        raise KeyError("an end that runtimes may read as the start of the axis")
    return [
        (placed(axis, rank), start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    ]


def reduced_axes(graph: Graph, node: onnx.NodeProto) -> set[int]:
    """Return the axes that a reduction takes together."""
    rank = len(graph.sizes[node.input[0]])
    if node.op_type.startswith("Arg"):
        return {placed(graph.attributes(node).get("axis", 0), rank)}
    axes = graph.listed(node, "axes", 1)
    if not axes:
        return set() if graph.attributes(node).get("noop_with_empty_axes") else set(range(rank))
    return {placed(axis, rank) for axis in axes}


def _operands(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    return [graph.sizes[i] for i in node.input if i]


@rule(*SAME)
def same(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the first operand."""
    return [graph.sizes[node.input[0]]]


@rule("Dropout")
def dropout(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Both results are of the size of the operand."""
    return [graph.sizes[node.input[0]]] * len(node.output)


@rule("DynamicQuantizeLinear")
def dynamic_quantisation(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The elements, one scale and one zero point."""
    return [graph.sizes[node.input[0]], [], []]


@rule("BatchNormalization")
def batch_normalization(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The first result is of the size of the operand."""
    return [graph.sizes[node.input[0]]]


@rule(*SPREAD)
def elementwise(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Operands broadcast."""
    return [broadcast(_operands(graph, node))]


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


@rule("Transpose")
def transpose(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Axes in another order."""
    x = graph.sizes[node.input[0]]
    return [[x[p] for p in graph.attributes(node).get("perm", range(len(x))[::-1])]]


@rule("Concat")
def concat(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Sizes along the axis add up."""
    parts = _operands(graph, node)
    axis = placed(graph.attributes(node)["axis"], len(parts[0]))
    made = list(parts[0])
    for other in parts[1:]:
        made[axis] = computed("Add", made[axis], other[axis])
    return [made]


@rule("Reshape")
def reshape(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The target, with 0 for a size of the operand and −1 for the rest."""
    x, target = graph.sizes[node.input[0]], graph.integers(node.input[1])
    copied = not graph.attributes(node).get("allowzero")
    made: Sizes = [x[k] if copied and t == 0 else t for k, t in enumerate(target)]
    if -1 in made:
        place = made.index(-1)
        others = product(made[:place] + made[place + 1 :])
        left = over(product(x), others)
        made[place] = left if left is not None else size_of(f"left({product(x)}, {others})")
    return [made]


@rule("Flatten")
def flatten(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Two axes: the product of those before, and of the others."""
    x = graph.sizes[node.input[0]]
    axis = graph.attributes(node).get("axis", 1)
    axis = axis + len(x) if axis < 0 else axis
    return [[product(x[:axis]), product(x[axis:])]]


@rule("Unsqueeze")
def unsqueeze(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """New axes of length one."""
    x, axes = graph.sizes[node.input[0]], graph.listed(node, "axes", 1) or []
    rank, left = len(x) + len(axes), iter(x)
    new = {placed(a, rank) for a in axes}
    return [[1 if k in new else next(left) for k in range(rank)]]


@rule("Squeeze")
def squeeze(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Axes of length one dropped; without a list all of them, where all sizes are known."""
    x, axes = graph.sizes[node.input[0]], graph.listed(node, "axes", 1)
    if axes is None and any(isinstance(s, Monomial) for s in x):
        return []
    gone = {k for k, s in enumerate(x) if s == 1} if axes is None else {placed(a, len(x)) for a in axes}
    return [[s for k, s in enumerate(x) if k not in gone]]


@rule("Expand")
def expand(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The operand and the target broadcast."""
    return [broadcast([graph.sizes[node.input[0]], graph.integers(node.input[1])])]


@rule("Slice")
def cut(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The part between the ends."""
    made = list(graph.sizes[node.input[0]])
    for axis, start, end, step in slices(graph, node):
        made[axis] = _between(made[axis], start, end, step)
    return [made]


def _between(size: Size, start: Any, end: Any, step: Any) -> Size:
    if not any(isinstance(v, Monomial) for v in (size, start, end, step)):
        return len(range(int(size))[start:end:step])  # type: ignore[arg-type]
    endless = not isinstance(end, Monomial) and end >= 2**31 - 1
    if step == 1 and start == 0 and (endless or end == size):
        return size
    if step == 1 and start == 0 and is_natural(end):
        return computed("Min", size, end)  # type: ignore[no-any-return]
    return size_of(f"slice({size}, {start}, {end}, {step})")


@rule("Split")
def split(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes given, or equal parts."""
    x, parts = graph.sizes[node.input[0]], graph.listed(node, "split", 1)
    axis = placed(graph.attributes(node).get("axis", 0), len(x))
    if parts is None:
        part = over(x[axis], len(node.output))
        if part is None:
            raise KeyError(axis)
        parts = [part] * len(node.output)
    return [[*x[:axis], s, *x[axis + 1 :]] for s in parts]


@rule("Gather")
def gather(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the indices in the place of the axis."""
    x, at = (graph.sizes[i] for i in node.input)
    axis = placed(graph.attributes(node).get("axis", 0), len(x))
    return [[*x[:axis], *at, *x[axis + 1 :]]]


@rule("GatherND")
def gather_nd(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the indices but for the last axis, then those of the data that are not indexed."""
    x, at = (graph.sizes[i] for i in node.input)
    count = at[-1]
    if isinstance(count, Monomial):
        raise KeyError("places of unknown rank")
    return [[*at[:-1], *x[graph.attributes(node).get("batch_dims", 0) + count :]]]


@rule("Shape")
def shape(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """One number for each axis."""
    given, rank = graph.attributes(node), len(graph.sizes[node.input[0]])
    return [[len(range(rank)[given.get("start", 0) : given.get("end")])]]


@rule("Size")
def size(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """One number."""
    return [[]]


@rule("GatherElements")
def gather_elements(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the indices."""
    return [graph.sizes[node.input[1]]]


@rule("MatMul")
def matmul(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``A[… m k] B[… k n] → Y[… m n]``."""
    x, y = (graph.sizes[i] for i in node.input[:2])
    if min(len(x), len(y)) < 2:
        return []
    numbers = [s for s in (x[-1], y[-2]) if isinstance(s, int)]
    can_be(len(set(numbers)) < 2, "matrices whose sizes do not fit")
    return [[*broadcast([x[:-2], y[:-2]]), x[-2], y[-1]] if len(x) > 2 or len(y) > 2 else [x[-2], y[-1]]]


@rule("Gemm")
def gemm(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``A[m k] B[k n] → Y[m n]``, either turned."""
    x, y = (graph.sizes[i] for i in node.input[:2])
    given = graph.attributes(node)
    return [[x[1] if given.get("transA") else x[0], y[0] if given.get("transB") else y[1]]]


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Return the labels of the axes of each operand of an Einsum, and those of its result.

    Args:
        equation: The equation, as ONNX has it.
        ranks: The ranks of the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = [term.partition("...") for term in left.split(",")]
    hidden = [rank - len(a + b) if dots else 0 for (a, dots, b), rank in zip(operands, ranks, strict=True)]
    most = max(hidden)
    every = [str(k) for k in range(most)]  # labels of the axes that an ellipsis stands for
    labels = [[*a, *every[most - n :], *b] for (a, _, b), n in zip(operands, hidden, strict=True)]
    if arrow:
        a, dots, b = right.partition("...")
        return labels, [*a, *(every if dots else []), *b]
    used = [label for mine in labels for label in mine]
    return labels, [*every, *sorted(x for x in set(used) if used.count(x) == 1 and x not in every)]


@rule("Einsum")
def einsum(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The size of each label; axes of one label are equal, or of one element."""
    shapes = _operands(graph, node)
    labels, made = einsum_labels(graph.attributes(node)["equation"].decode(), [len(s) for s in shapes])
    sizes: dict[str, Sizes] = {}
    for mine, shape_ in zip(labels, shapes, strict=True):
        for label, size_ in zip(mine, shape_, strict=True):
            sizes.setdefault(label, []).append(size_)
    return [[spread(sizes[label]) for label in made]]


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


@rule(*REDUCTIONS, "ArgMax", "ArgMin")
def reduction(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Axes become one element, or go."""
    gone, keep = reduced_axes(graph, node), graph.attributes(node).get("keepdims", 1)
    x = graph.sizes[node.input[0]]
    return [[1 if k in gone else s for k, s in enumerate(x) if k not in gone or keep]]


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


@rule("Tile")
def tile(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Sizes times repeats."""
    return [
        [times(s, r) for s, r in zip(graph.sizes[node.input[0]], graph.integers(node.input[1]), strict=True)]
    ]


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


@rule("LSTM", "GRU", "RNN")
def recurrent(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """``X[t n i] → Y[t d n h] Y_h[d n h] Y_c[d n h]``; with layout one the batch comes first."""
    x, w = (graph.sizes[i] for i in node.input[:2])
    given = graph.attributes(node)
    states = [graph.sizes.get(i) for i in node.input[5:7] if i]
    can_be(all(s is None or len(s) == 3 for s in (x, *states)), "an operand that is not of rank 3")
    directions, hidden = w[0], given["hidden_size"]
    if given.get("layout"):
        return [[x[0], x[1], directions, hidden], *[[x[0], directions, hidden]] * 2]
    return [[x[0], directions, x[1], hidden], *[[directions, x[1], hidden]] * 2]


@rule("ConstantOfShape")
def filled(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The operand lists the sizes."""
    return [graph.integers(node.input[0])]


@rule("Range")
def counted(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The numbers from one size up to another."""
    start, limit, step = (graph.integers(i)[0] for i in node.input)
    if step != 1 or not all(isinstance(x, Monomial) or is_number(x) for x in (start, limit)):
        raise KeyError("a range that does not count one by one")
    count = computed("Sub", limit, start)
    if not isinstance(count, Monomial):
        return [[max(count, 0)]]
    return [[count if count.natural else size_of(f"Max(0, {count})")]]


@rule("OneHot")
def one_hot(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """A new axis, the last by default."""
    at, depth = graph.sizes[node.input[0]], graph.integers(node.input[1])[0]
    axis = placed(graph.attributes(node).get("axis", -1), len(at) + 1)
    return [[*at[:axis], depth, *at[axis:]]]


@rule("TopK")
def top(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Take the length of the axis from the operand ``k``."""
    x, count = list(graph.sizes[node.input[0]]), graph.listed(node, "k", 1)
    if count is None:
        raise KeyError("k")
    x[placed(graph.attributes(node).get("axis", -1), len(x))] = count[0]
    return [x, x]
