"""Random networks in which parts of a tensor meet again: one factor, several independent indices.

A tensor is multiplied with itself, with its transposed, reshaped, permuted or sliced self (Gram matrices,
cosine similarity, scores within and across heads), by MatMul, Einsum or broadcasting (outer products). Rows
and columns of the result are the same factor, but not the same index.

    python tests/support/many_networks.py meeting 3000 [first seed]    prints failures and the share removed
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from helpers import Net, chosen_apart

from onnxprune.algebra.kept_axes import channel_of
from onnxprune.analysis.evidence.folding import folded
from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.evidence.precomputed import precomputed
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.slots import lined_up
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import masked
from onnxprune.errors import ModelError
from onnxprune.ir import Model, check
from onnxprune.passes.base import check_valid
from onnxprune.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
SIZES = (
    {"N": 1, "H": 8, "W": 8},
    {"N": 2, "H": 9, "W": 7},
    {"N": 3, "H": 5, "W": 12},
    {"N": 5, "H": 16, "W": 6},
    {"N": 7, "H": 7, "W": 11},
)
"""Values of the open axes, which no part of the program chooses: five, no two of them alike."""
MOST_ELEMENTS = 1500
TOLERANCE = 1e-4
CHAOTIC = 0.5
"""An output that rounding moves by so much of its size shows nothing, such as the sine of millions."""
LARGEST = 0.05
"""Tolerance for networks that amplify rounding."""


class Meeting:
    """A network that grows by random steps; one that does not fit does nothing. Axis 0 is an open batch."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.net = Net(opset=self.one_of(13, 17, 21), seed=seed)
        self.pool: list[str] = []
        self.sizes = self.one_of((2, 3), (2, 4), (3, 4), (3,), (4,))

    def one_of(self, *options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.random.uniform() < share)

    def size(self) -> int:
        return int(self.one_of(*self.sizes))

    def tensor(self, *ranks: int) -> str | None:
        """One of the newest tensors of some rank."""
        fitting = [t for t in reversed(self.pool) if not ranks or len(self.net.shape(t)) in ranks]
        return self.one_of(*fitting[:4]) if fitting else None

    def keep(self, *made: str) -> None:
        for name in made:
            shape = self.net.shape(name)
            if 1 < len(shape) <= 5 and 1 < math.prod(shape) <= MOST_ELEMENTS:
                self.pool.append(name)

    def tamed(self, x: str, terms: float = 1.0) -> str:
        """Keep numbers near one."""
        x = self.net.mul(x, self.net.const(1 / math.sqrt(terms))) if terms > 1 else x
        return self.net.op("Tanh", x) if self.chance(0.3) else x

    def reshaped(self, x: str, sizes: Sequence[int]) -> str:
        """Read a tensor in other axes; the batch stays open."""
        return self.net.sized(self.net.reshape(x, 0, *sizes), [self.net.shape(x)[0], *sizes])

    # --- sources of tensors ---------------------------------------------------------------------------

    def source(self) -> None:
        """Tokens projected to heads, or a signal through a grouped convolution."""
        count, width, length = self.size(), self.size(), self.size()
        x = self.net.input(f"x{len(self.net.inputs)}", [2, length, 3])
        y = self.net.linear(x, count * width, bias=self.chance(0.5))
        if self.chance(0.4):
            y = self.net.transpose(y, 0, 2, 1)
            if self.chance(0.7):
                y = self.net.conv(
                    y, count * self.size(), self.one_of(1, 3), group=count, bias=self.chance(0.5)
                )
        self.pool.append(y)

    # --- the same numbers in another order -----------------------------------------------------------------

    def heads(self) -> None:
        """Split the last axis, and lay its parts where attention, or something like it, would."""
        if x := self.tensor(3):
            _, length, width = self.net.shape(x)
            parts = [s for s in range(2, width) if width % s == 0]
            if not parts:
                return
            count = self.one_of(*parts)
            y = self.reshaped(x, [length, count, width // count])
            order = self.one_of((0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2))
            y = self.net.transpose(y, *order)
            if self.chance(0.5):
                shape = self.net.shape(y)
                first = self.chance(0.6)
                sizes = [shape[1] * shape[2], shape[3]] if first else [shape[1], shape[2] * shape[3]]
                y = self.reshaped(y, sizes)
            self.keep(y)

    def reshape(self) -> None:
        if x := self.tensor():
            sizes: list[int] = []
            for size in self.net.shape(x)[1:]:
                divisors = [d for d in range(2, size) if size % d == 0]
                parts = [size]
                if divisors and self.chance(0.5):
                    first = self.one_of(*divisors)
                    parts = [first, size // first]
                if sizes and self.chance(0.4):
                    sizes[-1] *= parts.pop(0)
                sizes += parts
            if len(sizes) <= 4:
                self.keep(self.reshaped(x, sizes))

    def transpose(self) -> None:
        if x := self.tensor(3, 4, 5):
            order = 1 + self.random.permutation(len(self.net.shape(x)) - 1)
            self.keep(self.net.transpose(x, 0, *order.tolist()))

    def piece(self) -> None:
        """Halves, a slice, elements in another order, or the tensor end to end with itself."""
        if x := self.tensor():
            axis = int(self.random.integers(1, len(self.net.shape(x))))
            size = self.net.shape(x)[axis]
            kind = self.one_of("split", "slice", "gather", "concat", "roll")
            if kind == "split" and size % 2 == 0:
                self.keep(*self.net.split(x, 2, axis))
            elif kind == "slice" and size > 2:
                start = int(self.random.integers(0, size - 1))
                self.keep(self.net.slice(x, start, int(self.random.integers(start + 1, size + 1)), axis))
            elif kind == "gather":
                picked = self.random.integers(0, size, int(self.random.integers(1, size + 1)))
                picked = np.sort(picked) if self.chance(0.5) else picked
                self.keep(self.net.op("Gather", x, self.net.ints(*picked.tolist()), axis=axis))
            elif kind == "concat":
                same = [y for y in self.pool if self.net.shape(y) == self.net.shape(x)]
                self.keep(self.net.concat(x, self.one_of(x, *same), axis=axis))
            elif kind == "roll" and size > 1:
                cut = int(self.random.integers(1, size))
                first, second = self.net.split(x, [cut, size - cut], axis)
                self.keep(self.net.concat(second, first, axis=axis))

    def expand(self) -> None:
        """A new axis, perhaps repeated to the length of another one."""
        if x := self.tensor(2, 3, 4):
            shape = self.net.shape(x)
            axis = int(self.random.integers(1, len(shape) + 1))
            y = self.net.unsqueeze(x, axis)
            if self.chance(0.7):
                target = [1] * (len(shape) + 1)
                target[axis] = self.one_of(*shape[1:])
                y = self.net.op("Expand", y, self.net.ints(*target))
            self.keep(y)

    # --- meeting parts ----------------------------------------------------------------------------------

    def gram(self) -> None:
        """A matrix times its own transpose, either way round, perhaps after a function of one of them."""
        if x := self.tensor(3, 4):
            rank = len(self.net.shape(x))
            turned = self.net.transpose(x, *range(rank - 2), rank - 1, rank - 2)
            turned = (
                self.net.op(self.one_of("Tanh", "Relu", "Sigmoid"), turned) if self.chance(0.4) else turned
            )
            a, b = self.one_of((x, turned), (turned, x))
            self.keep(self.tamed(self.net.op("MatMul", a, b), self.net.shape(a)[-1]))

    def product(self) -> None:
        """Two tensors of the pool that fit, axes permuted as needed."""
        if x := self.tensor(3, 4):
            shape = self.net.shape(x)
            found = []
            for y in self.pool:
                other = self.net.shape(y)
                if len(other) == len(shape):
                    for order in itertools.permutations(range(1, len(shape))):
                        turned = [other[0], *(other[k] for k in order)]
                        fit = all(p == q or 1 in (p, q) for p, q in zip(turned[:-2], shape[:-2], strict=True))
                        if fit and turned[-2] == shape[-1]:
                            found.append((y, order))
            if found:
                y, order = found[int(self.random.integers(len(found)))]
                y = self.net.transpose(y, 0, *order)
                self.keep(self.tamed(self.net.op("MatMul", x, y), shape[-1]))

    def einsum(self) -> None:
        """Any letters that fit the sizes, two or three operands, some of them constants."""
        if (x := self.tensor()) is None:
            return
        others = [self.one_of(x, *self.pool[-5:]) for _ in range(self.one_of(1, 1, 1, 2))]
        letters: dict[str, int] = {}
        terms, operands = [], []
        for y in (x, *others):
            shape, constant = self.net.shape(y), bool(operands) and self.chance(0.2)
            if constant:
                y = self.net.weight(*shape[1:], fan=3)
            term = "" if constant else "n"
            for size in shape[1:]:
                fitting = [s for s, k in letters.items() if k == size and s not in term]
                fresh = chr(ord("a") + len(letters))
                letter = self.one_of(*fitting) if fitting and self.chance(0.6) else fresh
                letters[letter] = size
                term += letter
            terms.append(term)
            operands.append(y)
        made = [s for s in letters if self.chance(0.55)]
        made = [made[k] for k in self.random.permutation(len(made))]
        if len(letters) > 6 or len(made) > 4 or math.prod(letters.values()) > 3000:
            return
        equation = f"{','.join(terms)}->n{''.join(made)}"
        summed = math.prod(k for s, k in letters.items() if s not in made)
        result = self.net.op("Einsum", *operands, equation=equation)
        self.keep(self.tamed(self.net.sized(result, [2, *(letters[s] for s in made)]), summed))

    def outer(self) -> None:
        """Every element of one tensor with every element of another, by broadcasting."""
        if (x := self.tensor(2, 3)) and (y := self.tensor(2, 3)):
            a, b = len(self.net.shape(x)) - 1, len(self.net.shape(y)) - 1
            shared = self.one_of(0, 1) if a == b == 2 and self.net.shape(x)[1] == self.net.shape(y)[1] else 0
            left = self.net.unsqueeze(x, *range(a + 1, a + 1 + b - shared))
            right = self.net.unsqueeze(y, *range(1 + shared, 1 + a))
            kind = self.one_of("Mul", "Mul", "Add", "Sub", "Max", "Greater", "Div")
            if kind == "Div":
                right = self.net.add(self.net.op("Abs", right), self.net.const(0.5))
            if kind == "Greater":
                self.keep(self.net.op("Where", self.net.op("Greater", left, right), left, right))
            else:
                self.keep(self.net.op(kind, left, right))

    def with_turned_self(self) -> None:
        """A tensor, elementwise with itself, some axes exchanged, or with another one of the same sizes."""
        if x := self.tensor(3, 4, 5):
            shape = self.net.shape(x)
            fitting = [
                (y, order)
                for y in self.pool
                for order in itertools.permutations(range(1, len(shape)))
                if len(self.net.shape(y)) == len(shape)
                and all(
                    self.net.shape(y)[k] == s or 1 in (self.net.shape(y)[k], s)
                    for k, s in zip(order, shape[1:], strict=True)
                )
            ]
            y, order = fitting[int(self.random.integers(len(fitting)))]
            y = self.net.transpose(y, 0, *order)
            kind = self.one_of("Add", "Mul", "Sub", "Max")
            self.keep(self.net.op(kind, x, y))

    def unit(self) -> None:
        """Divide by a norm along some axis: cosine similarity."""
        if x := self.tensor(2, 3, 4):
            axis = int(self.random.integers(1, len(self.net.shape(x))))
            kind = self.one_of("l2", "lp", "rms")
            if kind == "lp":
                self.keep(self.net.op("LpNormalization", x, axis=axis, p=self.one_of(1, 2)))
            elif kind == "l2":
                norm = self.net.add(self.net.reduce("ReduceL2", x, [axis]), self.net.const(0.1))
                self.keep(self.net.op("Div", x, norm))
            else:
                mean = self.net.reduce("ReduceMean", self.net.mul(x, x), [axis])
                self.keep(self.net.op("Div", x, self.net.op("Sqrt", self.net.add(mean, self.net.const(0.1)))))

    # --- operators in between ------------------------------------------------------------------------------

    def unary(self) -> None:
        if x := self.tensor():
            self.keep(self.net.op(self.one_of("Relu", "Tanh", "Sigmoid", "Abs", "Neg", "Softplus", "Cos"), x))

    def singular(self) -> None:
        if x := self.tensor():
            y = self.net.op(self.one_of("Sigmoid", "Softplus", "Abs"), x)
            y = self.net.add(y, self.net.const(0.4)) if self.chance(0.5) else y
            self.keep(self.net.op(self.one_of("Reciprocal", "Log", "Sqrt"), y))

    def softmax(self) -> None:
        if x := self.tensor():
            self.keep(self.net.op("Softmax", x, axis=int(self.random.integers(1, len(self.net.shape(x))))))

    def reduce(self) -> None:
        if x := self.tensor(3, 4, 5):
            axis = int(self.random.integers(1, len(self.net.shape(x))))
            kind = self.one_of(
                "ReduceSum", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceMax", "ReduceSumSquare"
            )
            self.keep(self.tamed(self.net.reduce(kind, x, [axis], self.one_of(0, 1))))

    def with_constant(self) -> None:
        """A constant along some axes of a tensor."""
        if x := self.tensor():
            sizes = [1, *(s if self.chance(0.6) else 1 for s in self.net.shape(x)[1:])]
            constant = self.net.const(self.random.uniform(0.4, 1.2, sizes))
            self.keep(self.net.op(self.one_of("Add", "Mul", "Sub", "Max"), x, constant))

    def linear(self) -> None:
        if x := self.tensor():
            width = self.one_of(self.net.shape(x)[-1], self.size())
            y = self.net.linear(x, width, bias=self.chance(0.5))
            if width == self.net.shape(x)[-1] and self.chance(0.5):
                y = self.net.add(x, y)
            self.keep(y)

    def conv(self) -> None:
        if x := self.tensor(3):
            channels = self.net.shape(x)[1]
            group = self.one_of(*[g for g in range(1, channels + 1) if channels % g == 0])
            out = self.one_of(channels, group * self.size())
            y = self.net.conv(x, out, self.one_of(1, 3), group=group, bias=self.chance(0.5))
            self.keep(self.net.add(x, y) if out == channels and self.chance(0.4) else y)

    def norm(self) -> None:
        if x := self.tensor(3, 4):
            kind = self.one_of("bn", "instance", "layer", "rms")
            if kind == "bn":
                self.keep(self.net.bn(x))
            elif kind == "instance":
                count = self.net.shape(x)[1]
                scale, shift = self.net.vector(count, 0.5, 1.5), self.net.vector(count)
                self.keep(self.net.op("InstanceNormalization", x, scale, shift))
            elif self.net.opset >= 17:
                self.keep(self.net.layer_norm(x, spelled_out=kind == "rms"))

    # --- the end -------------------------------------------------------------------------------------------

    def head(self, x: str) -> str:
        """Few numbers for each sample: by weights, by sums alone, or by a product with another tensor."""
        axes = list(range(1, len(self.net.shape(x))))
        kind = self.one_of("gemm", "gemm", "sum", "last", "square")
        if kind == "gemm":
            width = math.prod(self.net.shape(x)[1:])
            return self.net.gemm(self.net.sized(self.net.op("Flatten", x), [2, width]), 3)
        if kind == "last":
            x = self.net.linear(x, 2)
            return self.net.reduce("ReduceSum", x, axes[:-1]) if axes[:-1] else x
        y = self.net.mul(x, x) if kind == "square" else self.net.op("Sin", x)
        return self.net.reduce(
            "ReduceSum", y, axes[: self.one_of(1, len(axes))] if self.chance(0.3) else axes
        )


BETWEEN = "unary unary singular softmax reduce with_constant linear conv norm piece expand".split()
MOVES = "heads heads reshape transpose".split()
MEETINGS = "gram gram product einsum einsum einsum outer outer with_turned_self unit".split()


def grown(seed: int) -> Model:
    """Return the network of a seed."""
    build = Meeting(seed)
    for _ in range(build.one_of(1, 1, 2)):
        build.source()
    for _ in range(int(build.random.integers(2, 9))):
        steps = build.one_of(BETWEEN, MOVES, MEETINGS)
        getattr(build, build.one_of(*steps))()
    read = {i for n in build.net.nodes for i in n.input}
    loose = [t for t in build.pool if t not in read][-3:] or build.pool[-1:]
    proto = build.net.proto(*[build.head(x) for x in loose])
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    if build.chance(0.3):
        for node in proto.graph.node:
            node.ClearField("name")
    return check(Model(proto))


# --- conditions --------------------------------------------------------------------------------------------


def feeds_of(model: Model, place: int, seed: int) -> dict[str, Array]:
    """Draw samples of one of `SIZES`; a condition holds at every other one."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.inputs:
        kind = value.type.tensor_type
        shape = [d.dim_value or SIZES[place][d.dim_param] for d in kind.shape.dim]
        if kind.elem_type == onnx.TensorProto.BOOL:
            feeds[value.name] = np.full(shape, (place + seed) % 2 == 0)
        else:
            feeds[value.name] = random.normal(size=shape).astype(np.float32)
    return feeds


def with_zeros_of(original: Model, sparse: Model) -> onnx.ModelProto:
    """Return the given network with the weights of a sparse one; that one where it has others."""
    names = {t.name for t in original.proto.graph.initializer}
    changed = original.copy()
    for name, tensor in sparse.constants.items():
        if name not in names and not np.all(sparse.array(name)):
            return sparse.proto
        if name in names and list(tensor.dims) == list(original.constants[name].dims):
            changed.set_array(name, sparse.array(name))
    return changed.proto


def _shaken(values: Array) -> Array:
    """Change floats in their last digits."""
    return (
        (values * (1 + 1e-6 * np.sign(values))).astype(values.dtype) if values.dtype.kind == "f" else values
    )


def worst(reference: Session, other: Session, model: Model, seed: int) -> float:
    """Return the largest difference at any size, relative to the outputs' sizes, beyond rounding.

    The effect of rounding is measured at all sizes: an output of few numbers may not move by chance. Outputs
    without a finite number in the given network are left out.
    """
    taken, idle = _taken(
        Session(model.proto, optimize=False), [feeds_of(model, p, seed) for p in range(len(SIZES))]
    )
    feeds, expected = taken, [reference.run(feed) for feed in taken]
    moved = [reference.run({k: _shaken(v) for k, v in feed.items()}) for feed in feeds]
    noise: dict[str, float] = {}
    for one, three in zip(expected, moved, strict=True):
        for name, wanted in one.items():
            finite = np.isfinite(wanted) & np.isfinite(three[name])
            found = float(np.abs(wanted[finite] - three[name][finite]).max(initial=0))
            noise[name] = max(noise.get(name, 0.0), found)
    excesses = (
        _excess(name, wanted, other_made[name], noise[name])
        for feed, one in zip(feeds, expected, strict=True)
        for other_made in [other.run(feed)]
        for name, wanted in one.items()
        if name not in idle
    )
    return max(excesses, default=0.0)


def _taken(given: Session, feeds: list[dict[str, Array]]) -> tuple[list[dict[str, Array]], set[str]]:
    """Return the inputs that the given network can run, and its outputs without a finite number.

    An index may ask for a batch of two.
    """
    taken, made = [], []
    for feed in feeds:
        with contextlib.suppress(ModelError):
            made.append(given.run(feed))
            taken.append(feed)
    assert taken, "it runs at no size"
    return taken, {name for name in made[0] if not any(np.isfinite(one[name]).any() for one in made)}


def _excess(name: str, wanted: Array, made: Array, noise: float) -> float:
    """Return a difference as a multiple of the allowed one."""
    assert wanted.shape == made.shape, f"{name} is {made.shape}, not {wanted.shape}"
    finite = np.isfinite(wanted)
    assert np.array_equal(finite, np.isfinite(made)), f"{name} is not finite where it was"
    size = float(np.abs(wanted[finite]).max(initial=1e-3))
    if noise > CHAOTIC * size:
        return 0.0
    error = float(np.abs(wanted - made)[finite].max(initial=0)) / size
    return error / max(TOLERANCE, min(100 * noise / size, LARGEST))


def check_plan(model: Model, seed: int, apart: bool) -> int:
    """Remove channels of all groups, and compare with the given network and the same zeros.

    With `apart`, other ones in each part of an axis, where any may be chosen in each.
    """
    random = np.random.default_rng(seed)
    channels = find_channels(model)
    if apart and not channels.freedoms:
        return 0
    removed: dict[str, Any] = {
        g.name: np.flatnonzero(random.uniform(size=g.size) < 0.5)[: g.size - 1].tolist()
        for g in channels.groups
        if random.uniform() < 0.8
    }
    if apart:
        channels, removed = chosen_apart(channels, removed, seed)
    sparse, dense = masked(channels, removed), shrunk(channels, removed)
    check_valid(sparse, "mask", model)
    check_valid(dense, "shrink", model)
    given = Session(with_zeros_of(model, sparse), optimize=False)
    error = worst(given, Session(dense.proto, optimize=False), model, seed)
    assert error <= 1, f"by plan{', apart' if apart else ''}: {error:.1f} times what is allowed; {removed}"
    return sum(map(len, removed.values()))


def damaged(channels: Channels, seed: int) -> Model:
    """Set some channels to zero, in some of the tensors that have them, or in a part of such a tensor."""
    random, model = np.random.default_rng(seed), channels.model.copy()
    share = random.uniform(0.2, 0.8)
    for group in channels.groups:
        chosen = random.uniform(size=group.size) < random.uniform(0.2, 0.8)
        for place in (p for p in group.places if p.weight):
            if random.uniform() < share:
                values = model.array(place.tensor).copy()
                numbers = channel_of(channels.typing.axes[place.tensor][place.axis], group.factor)
                lines = (numbers >= 0) & chosen[numbers]
                if random.uniform() < 0.3:
                    lines &= random.uniform(size=lines.size) < 0.7
                np.moveaxis(values, place.axis, 0)[lines] = 0
                model.set_array(place.tensor, values)
    return model


def check_evidence(model: Model, seed: int, planned: bool) -> int:
    """Find the zeros of a network that has no plan, and compare it with the network without them."""
    channels = find_channels(model)
    if planned:
        half = {g.name: list(range(g.size // 2)) for g in channels.groups}
        sparse = masked(*chosen_apart(channels, half, seed))
    else:
        sparse = damaged(channels, seed)
    given = check(Model(with_zeros_of(model, sparse)))
    channels = find_channels(precomputed(given))
    evidence = find_evidence(find_channels(lined_up(channels)) if channels.freedoms else channels)
    dense = shrunk(find_channels(folded(evidence)), evidence.removed)
    check_valid(dense, "shrink", model)
    error = worst(Session(given.proto, optimize=False), Session(dense.proto, optimize=False), model, seed)
    assert error <= 1, f"by evidence: {error:.1f} times what is allowed; {evidence.removed}"
    return sum(map(len, evidence.removed.values()))


def check_network(model: Model, seed: int) -> Counter[str]:
    """Check a network in every way, and return how much was removed in each."""
    return Counter(
        networks=1,
        plan=check_plan(model, seed, apart=False),
        apart=check_plan(model, seed, apart=True),
        free=len(find_channels(model).freedoms),
        evidence=check_evidence(model, seed, planned=True),
        damaged=check_evidence(model, seed, planned=False),
    )


def check_all(seed: int) -> Counter[str]:
    """Check the network of a seed in every way."""
    return check_network(grown(seed), seed)
