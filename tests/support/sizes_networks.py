"""Random networks whose sizes are computed at run time, at any opset from 9 on."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
LAST = 8
"""The size of the inputs' last axis; the others are open."""
FAR = 2**31 - 1


class Builder:
    """A network that grows by random steps.

    Args:
        seed: Which network.

    Attributes:
        tensors: The names and ranks of the tensors made so far.
        sizes: Names of tensors of one integer.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.opset = self.rng.choice(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.tensors: list[tuple[str, int]] = [("x", 3), ("y", 3)]
        self.sizes: list[str] = [self.constant([self.rng.choice([1, 2, 3, 4, 7])])]
        self.count = 0

    def name(self) -> str:
        self.count = getattr(self, "count", 0) + 1
        return f"v{self.count}"

    def constant(self, value: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, operands: list[str], results: int = 1, **attributes: object) -> list[str]:
        names = [self.name() for _ in range(results)]
        self.nodes.append(helper.make_node(operator, operands, names, **attributes))
        return names

    def one(self, operator: str, operands: list[str], **attributes: object) -> str:
        return self.add(operator, operands, **attributes)[0]

    def keep(self, name: str, rank: int) -> None:
        self.tensors.append((name, rank))

    def length(self, name: str, axis: int) -> str:
        """Return the size of an axis, in one of the ways exporters have it."""
        if self.opset >= 15 and self.rng.random() < 0.5:
            return self.one("Shape", [name], start=axis, end=axis + 1)
        shape = self.one("Shape", [name])
        if self.rng.random() < 0.5:
            return self.one("Gather", [shape, self.constant([axis])])
        return self.unsqueezed(self.one("Gather", [shape, self.constant(axis)]), 0)

    def unsqueezed(self, name: str, axis: int) -> str:
        if self.opset < 13:
            return self.one("Unsqueeze", [name], axes=[axis])
        return self.one("Unsqueeze", [name, self.constant([axis])])

    def squeezed(self, name: str) -> str:
        if self.opset < 13:
            return self.one("Squeeze", [name], axes=[0])
        return self.one("Squeeze", [name, self.constant([0])])

    def joined(self, sizes: list[str]) -> str:
        return self.one("Concat", sizes, axis=0)

    def some_size(self) -> str:
        return self.rng.choice(self.sizes)


Step = Callable[[Builder, str, int, int], None]
STEPS: list[Step] = []


def step(times: int = 1) -> Callable[[Step], Step]:
    """Enter a way to grow; some are taken more often."""

    def enter(grow: Step) -> Step:
        STEPS.extend([grow] * times)
        return grow

    return enter


@step(2)
def cut(b: Builder, x: str, rank: int, axis: int) -> None:
    if not rank:
        return
    if b.opset < 10:
        start, end = b.rng.choice([0, 1, -3]), b.rng.choice([1, 3, -1, 100, FAR])
        b.keep(b.one("Slice", [x], axes=[axis], starts=[start], ends=[end]), rank)
        return
    start = b.rng.choice([b.constant([b.rng.choice([0, 1, 2, -1, -3, 5])]), b.some_size()])
    ends = [1, 3, -1, -2, 100, 2**63 - 1, FAR, -100]
    end = b.rng.choice([b.constant([b.rng.choice(ends)]), b.some_size()])
    by = b.constant([b.rng.choice([1, 1, 1, 2, -1, -2])])
    b.keep(b.one("Slice", [x, start, end, b.constant([axis]), by]), rank)


@step()
def concat(b: Builder, x: str, rank: int, axis: int) -> None:
    other, _ = b.rng.choice([t for t in b.tensors if t[1] == rank])
    if rank:
        b.keep(b.one("Concat", [x, other], axis=axis), rank)


@step()
def pad(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank and b.opset >= 11:
        before, after = b.constant([0] * axis), b.constant([0] * (2 * rank - 1 - axis))
        b.keep(b.one("Pad", [x, b.joined([before, b.some_size(), after])]), rank)


@step()
def pool(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank == 3:
        how = {"ceil_mode": b.rng.choice([0, 1])} if b.opset >= 10 else {}
        kernel, stride = b.rng.choice([1, 2, 3]), b.rng.choice([1, 2, 3])
        b.keep(b.one("MaxPool", [x], kernel_shape=[kernel], strides=[stride], **how), rank)


@step(2)
def size(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        b.sizes.append(b.length(x, axis))


@step(3)
def arithmetic(b: Builder, x: str, rank: int, axis: int) -> None:
    operators = ["Add", "Sub", "Mul", "Div"] + (["Mod"] if b.opset >= 10 else [])
    operators += ["Min", "Max"] if b.opset >= 12 else []
    b.sizes.append(b.one(b.rng.choice(operators), [b.some_size(), b.some_size()]))


@step()
def negated(b: Builder, x: str, rank: int, axis: int) -> None:
    b.sizes.append(b.one(b.rng.choice(["Neg", "Abs", "Identity", "Sign"]), [b.some_size()]))


@step()
def scaled(b: Builder, x: str, rank: int, axis: int) -> None:
    """Through floats and back, as exporters do for a scale factor."""
    real = b.one("Cast", [b.some_size()], to=TensorProto.FLOAT)
    factor = b.constant([b.rng.choice([0.5, 2.0, 0.7, 1.5, 3.0, 0.1])], np.float32)
    made = b.one(b.rng.choice(["Mul", "Div"]), [real, factor])
    if b.rng.random() < 0.7:
        made = b.one(b.rng.choice(["Floor", "Ceil"]), [made])
    b.sizes.append(b.one("Cast", [made], to=TensorProto.INT64))


@step()
def chosen(b: Builder, x: str, rank: int, axis: int) -> None:
    operators = ["Equal", "Less", "Greater"] + (["LessOrEqual", "GreaterOrEqual"] if b.opset >= 12 else [])
    condition = b.one(b.rng.choice(operators), [b.some_size(), b.some_size()])
    b.sizes.append(b.one("Where", [condition, b.some_size(), b.some_size()]))


@step()
def reshape(b: Builder, x: str, rank: int, axis: int) -> None:
    kind = b.rng.randrange(3)
    if kind == 0:
        b.keep(b.one("Reshape", [x, b.constant([-1])]), 1)
    elif kind == 1:
        b.keep(b.one("Reshape", [x, b.joined([b.some_size(), b.constant([-1])])]), 2)
    elif rank == 3:
        target = b.rng.choice([[0, -1, 4], [0, 0, 2, -1], [-1, 0, 8], [0, -1], [2, -1]])
        b.keep(b.one("Reshape", [x, b.constant(target)]), len(target))


@step()
def back_and_forth(b: Builder, x: str, rank: int, axis: int) -> None:
    """Merge the first two axes, and split them again by a size."""
    if rank == 3:
        merged = b.one("Reshape", [x, b.constant([-1, LAST])])
        split = b.joined([b.length(x, 0), b.constant([-1, LAST])])
        b.keep(merged, 2)
        b.keep(b.one("Reshape", [merged, split]), 3)


@step()
def expand(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        b.keep(b.one("Expand", [x, b.joined([b.some_size() for _ in range(rank)])]), rank)


@step()
def tile(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        b.keep(b.one("Tile", [x, b.joined([b.some_size(), *[b.constant([1])] * (rank - 1)])]), rank)


@step()
def transpose(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        b.keep(b.one("Transpose", [x], perm=b.rng.sample(range(rank), rank)), rank)


@step()
def split(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        how = {"num_outputs": 2} if b.opset >= 18 else {}
        for part in b.add("Split", [x], 2, axis=axis, **how):
            b.keep(part, rank)


@step()
def summed(b: Builder, x: str, rank: int, axis: int) -> None:
    other, more = b.rng.choice(b.tensors)
    b.keep(b.one("Add", [x, other]), max(rank, more))


@step()
def branch(b: Builder, x: str, rank: int, axis: int) -> None:
    if not rank:
        return
    condition = b.one(b.rng.choice(["Equal", "Less"]), [b.some_size(), b.some_size()])
    graphs = []
    for node in (
        helper.make_node("Relu", [x], [b.name()]),
        helper.make_node("Concat", [x, x], [b.name()], axis=axis),
    ):
        result = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        graphs.append(helper.make_graph([node], "branch", [], [result]))
    b.keep(b.one("If", [condition], then_branch=graphs[0], else_branch=graphs[1]), rank)


@step()
def counted(b: Builder, x: str, rank: int, axis: int) -> None:
    if b.opset >= 11:
        ends = [b.squeezed(b.some_size()), b.squeezed(b.some_size()), b.constant(b.rng.choice([1, 2, -1]))]
        b.keep(b.one("Cast", [b.one("Range", ends)], to=TensorProto.FLOAT), 1)


@step()
def filled(b: Builder, x: str, rank: int, axis: int) -> None:
    sizes = [b.some_size() for _ in range(b.rng.choice([1, 2]))]
    b.keep(b.one("ConstantOfShape", [b.joined(sizes)]), len(sizes))


@step()
def gather(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        b.keep(b.one("Gather", [x, b.constant([0, 0])], axis=axis), rank)


@step()
def flatten(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        b.keep(b.one("Flatten", [x], axis=b.rng.randrange(rank + 1)), 2)


@step()
def one_more(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank < 5:
        b.keep(b.unsqueezed(x, axis), rank + 1)


@step()
def resize(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank == 3 and b.opset >= 13:
        factors = b.constant([1, 1, b.rng.choice([0.5, 2, 1.5, 0.7])], np.float32)
        b.keep(b.one("Resize", [x, "", factors], mode="nearest"), rank)


@step()
def product(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank == 3:
        b.keep(b.one("MatMul", [x, b.one("Transpose", [x], perm=[0, 2, 1])]), rank)


@step()
def reduced(b: Builder, x: str, rank: int, axis: int) -> None:
    if rank:
        keep = b.rng.choice([0, 1])
        b.keep(b.one("ReduceMax", [x], axes=[axis], keepdims=keep) if b.opset < 18 else
               b.one("ReduceMax", [x, b.constant([axis])], keepdims=keep), rank - 1 + keep)  # fmt: skip


def network(seed: int) -> onnx.ModelProto:
    """Return one of many networks."""
    b = Builder(seed)
    for _ in range(b.rng.randrange(4, 16)):
        x, rank = b.rng.choice(b.tensors[-4:] + b.tensors[:2])
        b.rng.choice(STEPS)(b, x, rank, b.rng.randrange(rank) if rank else 0)
    if not b.nodes:
        b.one("Relu", ["x"])
    second = b.rng.choice(["T", "U"])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", LAST]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", second, LAST]),
    ]
    output = onnx.ValueInfoProto(name=b.nodes[-1].output[0])
    graph = helper.make_graph(b.nodes, "random", inputs, [output], b.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=8)
