"""Random networks for hypothesis: any operator of the table, in any order, on tensors of any rank."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from helpers import Net
from hypothesis import strategies as st

from onnxprune.analysis.sizes import infer_sizes
from onnxprune.errors import ModelError
from onnxprune.ir import Model
from onnxprune.runtime import Session, sample_feeds

BATCH = 2
MOST_ELEMENTS = 6000
Draw = Callable[..., object]


class Builder:
    """A network that grows by random steps; a step that does not fit does nothing."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.net = Net(opset=self.one_of(11, 13, 17, 21), seed=self.number(0, 99))
        self.pool: list[str] = []
        self.weights: list[tuple[str, int]] = []

    # --- choices -------------------------------------------------------------------------------------------

    def one_of(self, *options):  # type: ignore[no-untyped-def]
        return self.draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))  # type: ignore[return-value]

    def tensor(self, *ranks: int) -> str | None:
        """One of the tensors there are, the newest most likely."""
        fitting = [t for t in reversed(self.pool) if not ranks or len(self.net.shape(t)) in ranks]
        return self.one_of(*fitting[:5]) if fitting else None

    def axis(self, x: str, first: int = 0) -> int | None:
        rank = len(self.net.shape(x))
        return self.number(first, rank - 1) if rank > first else None

    def keep(self, *made: str) -> None:
        for name in made:
            if 0 < math.prod(self.net.shape(name)) <= MOST_ELEMENTS:
                self.pool.append(name)

    # --- steps ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        getattr(self, self.one_of(*STEPS))()

    def conv(self) -> None:
        if x := self.tensor(3, 4):
            c = self.net.shape(x)[1]
            group = self.one_of(*[g for g in range(1, c + 1) if c % g == 0])
            out = group * self.number(1, max(1, 12 // group))
            self.keep(self.net.conv(x, out, self.one_of(1, 3), group=group, bias=self.one_of(True, False)))

    def shared_conv(self) -> None:
        """A convolution whose weights, wherever sizes allow, another one has already."""
        if x := self.tensor(4):
            c = self.net.shape(x)[1]
            found = [w for w, ci in self.weights if ci == c]
            w = self.one_of(*found) if found else self.net.weight(self.number(2, 8), c, 1, 1)
            self.weights.append((w, c))
            self.keep(self.net.conv(x, self.net.shape(w)[0], 1, w=w))

    def up(self) -> None:
        if x := self.tensor(4):
            c = self.net.shape(x)[1]
            group = self.one_of(*[g for g in range(1, c + 1) if c % g == 0])
            self.keep(self.net.up(x, group * self.number(1, 3), group=group))

    def norm(self) -> None:
        if x := self.tensor(2, 3, 4):
            kind = self.one_of("bn", "bn", "instance", "layer")
            rank, c = len(self.net.shape(x)), self.net.shape(x)[1]
            if kind == "layer":
                self.keep(self.net.layer_norm(x))
            elif kind == "instance" and rank > 2:
                scale, shift = self.net.vector(c, 0.5, 1.5), self.net.vector(c)
                self.keep(self.net.op("InstanceNormalization", x, scale, shift))
            else:
                self.keep(self.net.bn(x))

    def unary(self) -> None:
        if x := self.tensor():
            kind = self.one_of("Relu", "Sigmoid", "Tanh", "Softplus", "Abs", "Cos", "Neg", "LeakyRelu", "Exp")
            self.keep(self.net.op(kind, self.net.op("Tanh", x) if kind == "Exp" else x))

    def singular(self) -> None:
        """Functions that are infinite at zero."""
        if x := self.tensor():
            kind = self.one_of("Reciprocal", "Log", "Pow")
            inside = self.one_of("Abs", "Relu", "Sigmoid", "Softplus")
            y = self.net.op(inside, x)
            if inside == "Relu" or self.one_of(True, False):
                y = self.net.add(y, self.net.const(0.5))
            self.keep(self.net.op(kind, y, *([self.net.const(-0.5)] if kind == "Pow" else [])))

    def clip(self) -> None:
        if x := self.tensor():
            low, high = self.one_of((0.0, 0.6), (0.2, 1.0), (-1.0, 1.0))
            self.keep(self.net.op("Clip", x, self.net.const(low), self.net.const(high)))

    def prelu(self) -> None:
        if (x := self.tensor(3, 4)) is not None:
            c = self.net.shape(x)[1]
            slope = self.net.const(self.net.random.uniform(0, 1, (c, *[1] * (len(self.net.shape(x)) - 2))))
            self.keep(self.net.op("PRelu", x, slope))

    def binary(self) -> None:
        """Two tensors that broadcast."""
        if x := self.tensor():
            partners = [y for y in self.pool if _broadcast(self.net.shape(x), self.net.shape(y))]
            y = self.one_of(*reversed(partners))
            kind = self.one_of("Add", "Mul", "Sub", "Max", "Div", "Where")
            if kind == "Div":
                y = self.net.add(self.net.op(self.one_of("Sigmoid", "Abs"), y), self.net.const(0.3))
            if kind == "Where":
                greater = self.net.op("Greater", x, self.net.const(0.1))
                self.keep(self.net.op("Where", greater, x, y))
            else:
                self.keep(self.net.op(kind, *self.one_of((x, y), (x, y) if kind == "Div" else (y, x))))

    def with_constant(self) -> None:
        """A constant that lies along some axes of a tensor."""
        if x := self.tensor():
            sizes = [s if self.one_of(True, False) else 1 for s in self.net.shape(x)]
            sizes = sizes[self.number(0, len(sizes)) :]
            kind = self.one_of("Add", "Mul", "Sub", "Max", "Div")
            constant = self.net.const(self.net.random.uniform(0.3, 1.0, sizes))
            self.keep(self.net.op(kind, x, constant))

    def pooling(self) -> None:
        if x := self.tensor(4):
            kind = self.one_of("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
            self.keep(self.net.op(kind, x) if kind.startswith("Global") else self.net.pool(x, kind, 3, 1, 1))

    def concat(self) -> None:
        if (x := self.tensor(2, 3, 4)) and (axis := self.axis(x, 1)) is not None:
            rest = [s for a, s in enumerate(self.net.shape(x)) if a != axis]
            fitting = [
                y
                for y in self.pool
                if len(self.net.shape(y)) == len(rest) + 1
                and [s for a, s in enumerate(self.net.shape(y)) if a != axis] == rest
            ]
            others = [self.one_of(*fitting) for _ in range(self.number(1, 2))]
            self.keep(self.net.concat(x, *others, axis=axis))

    def split(self) -> None:
        if (x := self.tensor(2, 3, 4)) and (axis := self.axis(x, 1)) is not None:
            size = self.net.shape(x)[axis]
            if size % 2 == 0 and self.one_of(True, False):
                self.keep(*self.net.split(x, 2, axis))
            elif size > 1:
                cut = self.number(1, size - 1)
                self.keep(*self.net.split(x, [cut, size - cut], axis))

    def slice(self) -> None:
        if (x := self.tensor()) and (axis := self.axis(x, 1)) is not None:
            size = self.net.shape(x)[axis]
            start, step = self.number(0, size - 1), self.one_of(1, 1, 1, 2)
            end = self.one_of(self.number(start + 1, size), 2**31)
            negative = self.one_of(True, False) and start > 0
            self.keep(self.net.slice(x, start - size if negative else start, end, axis, step))

    def pad(self) -> None:
        if (x := self.tensor(3, 4)) and (axis := self.axis(x, 1)) is not None:
            before, after, rank = self.number(0, 2), self.number(0, 2), len(self.net.shape(x))
            pads = [before if a == axis else 0 for a in range(rank)]
            pads += [after if a == axis else 0 for a in range(rank)]
            mode = self.one_of("constant", "constant", "edge")
            self.keep(self.net.pad(x, pads, mode=mode))

    def resize(self) -> None:
        if x := self.tensor(4):
            self.keep(self.net.double(x))

    def depth(self) -> None:
        if x := self.tensor(4):
            _, c, h, w = self.net.shape(x)
            if c % 4 == 0:
                mode = self.one_of("DCR", "CRD")
                self.keep(self.net.op("DepthToSpace", x, blocksize=2, mode=mode))
            elif h % 2 == 0 and w % 2 == 0:
                self.keep(self.net.op("SpaceToDepth", x, blocksize=2))

    def reshape(self) -> None:
        """Merge some axes and split others; sizes as 0, −1, numbers, or computed from the shape."""
        if x := self.tensor():
            merged = _merge(self, self.net.shape(x))
            target = [f for size in merged for f in _factors(self, size)]
            if len(target) <= 6:
                self.keep(self.net.sized(self.net.op("Reshape", x, self._target(x, target)), target))

    def _target(self, x: str, sizes: list[int]) -> str:
        given = self.net.shape(x)
        if self.one_of(True, False):
            numbers = [0 if k < len(given) and given[k] == s and self.one_of(True, False) else s
                       for k, s in enumerate(sizes)]  # fmt: skip
            open_axis = self.number(-1, len(sizes) - 1)
            return self.net.ints(*[-1 if k == open_axis else n for k, n in enumerate(numbers)])
        parts = [self._size(x, s) for s in sizes]
        return self.net.concat(*parts, axis=0) if parts else self.net.ints(-1)

    def _size(self, x: str, size: int) -> str:
        """A list of one size: a number, or read from a shape when the network runs."""
        given = self.net.shape(x)
        shape = self.net.op("Shape", x)
        for axis, s in enumerate(given):
            if s == size and self.one_of(True, False):
                return self.net.op("Gather", shape, self.net.ints(axis))
            if s > 1 and size % s == 0 and self.one_of(True, False):
                read = self.net.op("Gather", shape, self.net.ints(axis))
                return self.net.mul(read, self.net.ints(size // s))
            if size > 1 and s % size == 0 and self.one_of(True, False):
                read = self.net.op("Gather", shape, self.net.ints(axis))
                return self.net.op("Div", read, self.net.ints(s // size))
        return self.net.ints(size)

    def transpose(self) -> None:
        x = self.tensor()
        if x and len(self.net.shape(x)) > 1:
            order = self.draw(st.permutations(list(range(1, len(self.net.shape(x))))))
            self.keep(self.net.transpose(x, 0, *order))  # type: ignore[misc]

    def shuffle(self) -> None:
        if x := self.tensor(4):
            n, c, h, w = self.net.shape(x)
            g = self.one_of(*[g for g in range(1, c + 1) if c % g == 0])
            y = self.net.transpose(self.net.reshape(x, n, g, c // g, h, w), 0, 2, 1, 3, 4)
            self.keep(self.net.reshape(y, n, self.one_of(c, -1), h, w))

    def flatten(self) -> None:
        if x := self.tensor():
            self.keep(self.net.op("Flatten", x, axis=self.one_of(1, 1, len(self.net.shape(x)) - 1)))

    def ones(self) -> None:
        """Add or drop axes of one element."""
        if x := self.tensor():
            ones = [a for a, s in enumerate(self.net.shape(x)) if s == 1]
            if ones and self.one_of(True, False):
                self.keep(self.net.squeeze(x, self.one_of(*ones)))
            elif len(self.net.shape(x)) < 5:
                self.keep(self.net.unsqueeze(x, self.number(0, len(self.net.shape(x)))))

    def linear(self) -> None:
        if (x := self.tensor(2, 3, 4)) is not None:
            self.keep(self.net.linear(x, self.number(1, 8)))

    def computed_weight(self) -> None:
        if (x := self.tensor(2, 3, 4)) is not None:
            w = self.net.transpose(self.net.weight(self.number(1, 8), self.net.shape(x)[-1]), 1, 0)
            self.keep(self.net.op("MatMul", x, w))

    def gemm(self) -> None:
        if x := self.tensor(2):
            self.keep(self.net.gemm(x, self.number(1, 8)))

    def matmul(self) -> None:
        """Two activations, such as queries and keys."""
        if x := self.tensor(2, 3, 4, 5):
            shape = self.net.shape(x)
            for y in reversed(self.pool):
                other = self.net.shape(y)
                if len(other) == len(shape) and _broadcast(shape[:-2], other[:-2]):
                    if shape[-1] == other[-2]:
                        return self.keep(self.net.op("MatMul", x, y))
                    if shape[-1] == other[-1]:
                        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
                        return self.keep(self.net.op("MatMul", x, self.net.transpose(y, *order)))
        return None

    def softmax(self) -> None:
        if x := self.tensor():
            self.keep(self.net.op("Softmax", x, axis=self.one_of(-1, len(self.net.shape(x)) - 1, 1)))

    def reduce(self) -> None:
        if (x := self.tensor()) and (axis := self.axis(x, 1)) is not None:
            kind = self.one_of("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")
            self.keep(self.net.reduce(kind, x, [axis], self.number(0, 1)))

    def expand(self) -> None:
        if x := self.tensor():
            shape = self.net.shape(x)
            target = [self.number(2, 3) if s == 1 and a else self.one_of(s, 1) for a, s in enumerate(shape)]
            self.keep(self.net.op("Expand", x, self.net.ints(*target)))

    def tile(self) -> None:
        if (x := self.tensor()) and (axis := self.axis(x, 1)) is not None:
            repeats = [2 if a == axis else 1 for a in range(len(self.net.shape(x)))]
            self.keep(self.net.op("Tile", x, self.net.ints(*repeats)))

    def gather(self) -> None:
        if (x := self.tensor()) and (axis := self.axis(x, 1)) is not None:
            index = self.number(0, self.net.shape(x)[axis] - 1)
            picked = self.one_of(self.net.ints(index), self.net.const(np.asarray(index, np.int64)))
            self.keep(self.net.op("Gather", x, picked, axis=axis))

    def gather_many(self) -> None:
        """Elements of an axis in another order, some of them twice."""
        if (x := self.tensor()) and (axis := self.axis(x, 1)) is not None:
            size = self.net.shape(x)[axis]
            picked = [self.number(0, size - 1) for _ in range(self.number(1, size))]
            self.keep(self.net.op("Gather", x, self.net.ints(*picked), axis=axis))

    def einsum(self) -> None:
        if self.net.opset >= 13 and (x := self.tensor(3)):
            _, a, b = self.net.shape(x)
            terms = self.one_of("nab,bc->nac", "nab,ac->nbc", "nab,bc->nca", "nab,abc->nc")
            c = self.number(1, 6)
            shape = {"bc": (b, c), "ac": (a, c), "abc": (a, b, c)}[terms.split(",")[1].split("-")[0]]
            self.keep(self.net.op("Einsum", x, self.net.weight(*shape, fan=b), equation=terms))

    def einsum_of_two(self) -> None:
        if self.net.opset >= 13 and (x := self.tensor(3)):
            same = [y for y in self.pool if self.net.shape(y) == self.net.shape(x)]
            terms = self.one_of("nab,ncb->nac", "nab,nac->nbc", "nab,nab->nb", "nab,nab->nab")
            self.keep(self.net.op("Einsum", x, self.one_of(*reversed(same)), equation=terms))

    def along(self) -> None:
        """Operators for which every element of an axis depends on others."""
        if (x := self.tensor()) and (axis := self.axis(x, 1)) is not None:
            kind = self.one_of("CumSum", "TopK", "LRN", "LogSoftmax")
            if kind == "CumSum":
                self.keep(self.net.op(kind, x, self.net.const(np.asarray(axis, np.int64))))
            elif kind == "TopK":
                count = self.number(1, self.net.shape(x)[axis])
                self.keep(self.net.ops(kind, x, self.net.ints(count), outputs=2, axis=axis)[0])
            elif kind == "LRN" and len(self.net.shape(x)) == 4:
                self.keep(self.net.op(kind, x, size=3))
            elif kind == "LogSoftmax":
                self.keep(self.net.op(kind, x, axis=axis))

    def many(self) -> None:
        """Operators of any number of operands, one of them a single number."""
        if x := self.tensor():
            same = [y for y in self.pool if self.net.shape(y) == self.net.shape(x)]
            kind = self.one_of("Sum", "Mean", "Max", "Min")
            others = [self.one_of(*same) for _ in range(self.number(0, 2))]
            number = [self.net.const(self.one_of(0.0, 0.2))] if self.one_of(True, False) else []
            self.keep(self.net.op(kind, x, *others, *number))

    def recurrent(self) -> None:
        if x := self.tensor(3):
            _, _, width = self.net.shape(x)
            kind, hidden, ways = self.one_of("LSTM", "GRU", "RNN"), self.number(2, 4), self.one_of(1, 2)
            gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
            w, r = (
                self.net.weight(ways, gates, width, fan=width),
                self.net.weight(ways, gates, hidden, fan=hidden),
            )
            b = self.net.const(self.net.random.uniform(-0.5, 0.5, (ways, 2 * gates)))
            way = "bidirectional" if ways == 2 else "forward"
            rows = self.net.transpose(x, 1, 0, 2)
            y, last = self.net.ops(kind, rows, w, r, b, outputs=2, hidden_size=hidden, direction=way)
            self.keep(self.net.transpose(y, 2, 0, 1, 3), self.net.transpose(last, 1, 0, 2))

    def new_shape(self) -> None:
        """A tensor filled with a number, of the shape of another one."""
        if x := self.tensor():
            zeros = self.net.op("ConstantOfShape", self.net.op("Shape", x))
            self.keep(self.net.add(x, self.net.sized(zeros, self.net.shape(x))))


STEPS = [
    name
    for name, value in vars(Builder).items()
    if callable(value) and not name.startswith("_") and name not in ("one_of", "number", "tensor", "axis")
]
STEPS = [s for s in STEPS if s not in ("keep", "step")] + ["conv"] * 4 + ["binary", "unary", "reshape"] * 2


def _broadcast(a: list[int], b: list[int]) -> bool:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(x == y or 1 in (x, y) for x, y in pairs)


def _merge(build: Builder, sizes: list[int]) -> list[int]:
    merged: list[int] = []
    for axis, size in enumerate(sizes):
        if axis > 1 and build.one_of(True, False):
            merged[-1] *= size
        else:
            merged.append(size)
    return merged


def _factors(build: Builder, size: int) -> list[int]:
    divisors = [d for d in range(2, size) if size % d == 0]
    if not divisors or build.one_of(True, False):
        return [size]
    first = build.one_of(*divisors)
    return [first, size // first]


@st.composite
def networks(draw: Draw) -> Model:
    """Draw a network of up to a dozen steps, every loose end of which goes into a head."""
    return grow(Builder(draw))


def grow(build: Builder) -> Model:
    """Take random steps, and give every loose end a head."""
    net = build.net
    for k in range(build.number(1, 2)):
        rank = build.one_of(4, 4, 4, 3)
        shape = [BATCH, build.one_of(2, 3), 4, 4] if rank == 4 else [BATCH, 4, build.one_of(3, 4)]
        x = net.input(f"x{k}", shape)
        build.keep(net.conv(x, build.number(2, 8)) if rank == 4 else net.linear(x, build.number(2, 8)))
    for _ in range(build.number(1, 12)):
        build.step()
    read = {i for n in net.nodes for i in n.input}
    loose = [t for t in build.pool if t not in read] or build.pool[-1:]
    outputs = [net.gemm(net.op("Flatten", t), 3) for t in loose[-3:]]
    return _symbolic_batch(net, outputs) if build.one_of(True, False) else net.model(*outputs)


def _symbolic_batch(net: Net, outputs: list[str]) -> Model:
    """Let the caller choose the batch, where the network does not insist on its size."""
    free = net.model(*outputs)
    for value in (*free.proto.graph.input, *free.proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    try:
        session = Session(free.proto, optimize=False)
        feeds = sample_feeds(session.inputs, batch=BATCH + 1)[0]
        infer_sizes(
            free.proto, shapes={n: a.shape for n, a in feeds.items()}
        )  # the runtime may end in a crash
        session.run(feeds)
    except ModelError:
        return net.model(*outputs)
    return free


TOLERANCE = 1e-4
"""Mistakes give errors of a percent and more; rounding stays below this, mostly."""

LARGEST = 0.05
"""Tolerance for networks that amplify rounding, such as reciprocals of numbers near zero."""
