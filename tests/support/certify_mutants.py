"""Mutants of dense models: the verifier has to refuse all that compute something else.

    python tests/support/certify_mutants.py [--each N] [PATTERN]   table: kind, mutants, refused, equal, wrong

Sixteen kinds of change to the dense models of the ideas and of `certified_networks`. A mutant that is
certified is run beside the sparse model at up to four sizes: where the two differ, the verifier is wrong, and
the program exits 1.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from certified_networks import NETWORKS, half_of
from onnx import helper, numpy_helper
from pruned_ideas import IDEAS, Pruned, half

from onnxprune.certify import certify
from onnxprune.certify.relations.element_bounds import Array
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import Session

TOLERANCE = 1e-5
"""Relative; two models that differ less are taken to be equal."""
OTHER = dict(
    pair.split(":")
    for pair in (
        "Add:Mul Ceil:Floor Clip:Identity Div:Mul Erf:Tanh Exp:Sqrt Floor:Ceil "
        "GlobalAveragePool:GlobalMaxPool HardSwish:Relu Identity:Neg MaxPool:AveragePool Mul:Add "
        "ReduceMax:ReduceMin ReduceMean:ReduceSum "
        "ReduceSum:ReduceMean Relu:Tanh Sigmoid:Tanh Softmax:LogSoftmax Sqrt:Exp Sub:Add Tanh:Sigmoid"
    ).split()
)
WORDS = "DCR:CRD CRD:DCR nearest:linear linear:nearest asymmetric:half_pixel half_pixel:asymmetric floor:ceil"
STRINGS = {k.encode(): v.encode() for k, v in (pair.split(":") for pair in WORDS.split())}


@dataclass
class Mutation:
    """A dense model that is being changed.

    Attributes:
        model: The dense model, changed in place.
        sparse: The sparse model.
        random: Generator of random numbers.
    """

    model: onnx.ModelProto
    sparse: onnx.ModelProto
    random: random.Random

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return [n for n in self.model.graph.node if n.op_type != "Constant"]

    def constants(self, kinds: str, size: int = 1, rank: int = 0) -> list[onnx.TensorProto]:
        found = constants_of(self.model)
        values = {t.name: numpy_helper.to_array(t) for t in found}
        return [
            t
            for t in found
            if (v := values[t.name]).dtype.kind in kinds and v.size >= size and v.ndim >= rank
        ]

    def changed(self, tensor: onnx.TensorProto, change: Callable[[Array], Array]) -> None:
        values = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def constants_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    nodes = [n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    for node in nodes:
        node.attribute[0].t.name = node.output[0]
    return [*model.graph.initializer, *(n.attribute[0].t for n in nodes)]


def element(by: Callable[[Array, int], float]) -> Callable[[Mutation], None]:
    """One element of a weight becomes another."""

    def mutate(m: Mutation) -> None:
        def change(values: Array) -> Array:
            k = m.random.randrange(values.size)
            values.ravel()[k] = by(values, k)
            return values

        m.changed(m.random.choice(m.constants("f", 8)), change)

    return mutate


def swapped(axis: int) -> Callable[[Mutation], None]:
    """Two rows (or columns) of one weight change places."""

    def mutate(m: Mutation) -> None:
        tensor = m.random.choice([t for t in m.constants("f", 4, axis + 1) if t.dims[axis] > 1])
        order = list(range(tensor.dims[axis]))
        a, b = m.random.sample(order, 2)
        order[a], order[b] = b, a
        m.changed(tensor, lambda v: v.take(order, axis))

    return mutate


def kept(axis: int) -> Callable[[Mutation], None]:
    """Another channel of the sparse weight is kept, in this weight only."""

    def mutate(m: Mutation) -> None:
        sparse = {t.name: numpy_helper.to_array(t) for t in constants_of(m.sparse)}

        def fits(tensor: onnx.TensorProto) -> bool:
            before = sparse.get(tensor.name, np.zeros(())).shape
            after = tuple(tensor.dims)
            alike = len(before) == len(after) and before[axis] > after[axis]
            return alike and before[:axis] + before[axis + 1 :] == after[:axis] + after[axis + 1 :]

        tensor = m.random.choice([t for t in m.constants("f", 4, axis + 1) if fits(t)])
        k, j = m.random.randrange(tensor.dims[axis]), m.random.randrange(sparse[tensor.name].shape[axis])

        def change(values: Array) -> Array:
            np.moveaxis(values, axis, 0)[k] = np.moveaxis(sparse[tensor.name], axis, 0)[j]
            return values

        m.changed(tensor, change)

    return mutate


def attribute(m: Mutation) -> None:
    """A number or a word of a node becomes another."""
    kinds = (
        onnx.AttributeProto.INT,
        onnx.AttributeProto.INTS,
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.STRING,
    )
    a = m.random.choice(
        [a for n in m.nodes for a in n.attribute if a.type in kinds and (a.type != a.INTS or a.ints)]
    )
    if a.type == a.INT:
        a.i += m.random.choice([-1, 1])
    elif a.type == a.FLOAT:
        a.f = a.f * 1.5 + 0.01
    elif a.type == a.INTS:
        a.ints[m.random.randrange(len(a.ints))] += m.random.choice([-1, 1])
    else:
        a.s = STRINGS.get(a.s, b"edge")


def order(m: Mutation) -> None:
    """Two numbers of a list of a node change places."""
    a = m.random.choice([a for n in m.nodes for a in n.attribute if len(a.ints) > 1])
    i, j = m.random.sample(range(len(a.ints)), 2)
    a.ints[i], a.ints[j] = a.ints[j], a.ints[i]


def number(m: Mutation) -> None:
    """One number of a list of sizes or indices becomes another."""

    def change(values: Array) -> Array:
        k = m.random.randrange(values.size)
        beside = values.ravel()[(k + 1) % values.size]
        near = m.random.random() < 0.7 or values.size < 2
        other = int(values.ravel()[k]) + m.random.choice([-1, 1]) if near else beside
        values.ravel()[k] = np.asarray(other).astype(values.dtype)
        return values

    m.changed(m.random.choice(m.constants("iu")), change)


def removed(m: Mutation) -> None:
    """A node is left out."""
    outputs = {o.name for o in m.model.graph.output}
    node = m.random.choice(
        [n for n in m.nodes if any(n.input) and len(n.output) == 1 and n.output[0] not in outputs]
    )
    source, gone = next(i for i in node.input if i), node.output[0]
    for other in m.model.graph.node:
        other.input[:] = [source if i == gone else i for i in other.input]
    m.model.graph.node.remove(node)


def operator(m: Mutation) -> None:
    """A node does something else."""
    node = m.random.choice([n for n in m.nodes if n.op_type in OTHER])
    node.op_type = OTHER[node.op_type]


def operands(m: Mutation) -> None:
    """Two operands change places."""
    node = m.random.choice([n for n in m.nodes if sum(map(bool, n.input)) > 1])
    i, j = m.random.sample([k for k, name in enumerate(node.input) if name], 2)
    node.input[i], node.input[j] = node.input[j], node.input[i]


def rewired(m: Mutation) -> None:
    """An operand is another tensor made before."""
    place = m.random.randrange(len(m.model.graph.node))
    node = m.model.graph.node[place]
    pool = [o for other in m.model.graph.node[:place] for o in other.output if o]
    pool += [v.name for v in (*m.model.graph.input, *m.model.graph.initializer)]
    node.input[m.random.randrange(len(node.input))] = m.random.choice(pool)


def inserted(m: Mutation) -> None:
    """A node is put in, under a name as `transform` gives."""
    node = m.random.choice([n for n in m.nodes if n.output[0]])
    name = node.output[0]
    before = name + m.random.choice(["__x", "__unscaled", "__varying"])
    kind = m.random.choice(["Relu", "Neg", "Mul", "Add"])
    node.output[0] = before
    operands = [before]
    if kind in ("Mul", "Add"):
        value = np.asarray([1.001 if kind == "Mul" else 0.001], np.float32)
        m.model.graph.initializer.append(numpy_helper.from_array(value, "new_constant"))
        operands.append("new_constant")
    place = list(m.model.graph.node).index(node) + 1
    m.model.graph.node.insert(place, helper.make_node(kind, operands, [name]))


def exchanged(m: Mutation) -> None:
    """Two weights of one shape change places."""
    by_shape = defaultdict(list)
    for tensor in m.constants("f", 4):
        by_shape[tuple(tensor.dims)].append(tensor)
    one, two = m.random.sample(m.random.choice([ts for ts in by_shape.values() if len(ts) > 1]), 2)
    values = numpy_helper.to_array(one).copy()
    m.changed(one, lambda v: numpy_helper.to_array(two))
    m.changed(two, lambda v: values)


def permuted(m: Mutation) -> None:
    """Rows of a weight and of its bias change places, but not the axes of their consumers."""
    constants = {t.name: t for t in constants_of(m.model)}

    def whole(n: onnx.NodeProto) -> bool:
        return n.op_type in ("Conv", "Gemm") and len(n.input) > 2 and set(n.input[1:3]) <= set(constants)

    node = m.random.choice([n for n in m.nodes if whole(n) and constants[n.input[2]].dims[0] > 1])
    turned = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
    rows = list(range(constants[node.input[2]].dims[0]))
    i, j = m.random.sample(rows, 2)
    rows[i], rows[j] = j, i
    m.changed(constants[node.input[1]], lambda v: v.take(rows, 0 if turned else 1))
    m.changed(constants[node.input[2]], lambda v: v.take(rows, 0))


KINDS: dict[str, Callable[[Mutation], None]] = {
    "weight": element(lambda v, k: v.ravel()[k] + max(abs(v.ravel()[k]) * 0.5, 0.1)),
    "last place": element(lambda v, k: np.nextafter(v.ravel()[k], np.asarray(np.inf, v.dtype))),
    "rows": swapped(0),
    "columns": swapped(1),
    "other rows kept": kept(0),
    "other columns kept": kept(1),
    "attribute": attribute,
    "order": order,
    "number": number,
    "node removed": removed,
    "operator": operator,
    "operands": operands,
    "rewired": rewired,
    "node inserted": inserted,
    "weights exchanged": exchanged,
    "rows permuted": permuted,
}


@dataclass
class Subject:
    """A sparse and a dense model, and runs that distinguish mutants from them.

    Attributes:
        name: Their name.
        sparse: The sparse model.
        dense: The dense one.
        kept: The hints of its certificate.
        feeds: Inputs at several sizes that the sparse model takes, and its results.
    """

    name: str
    sparse: onnx.ModelProto
    dense: onnx.ModelProto
    kept: dict[str, dict[int, Array]]
    feeds: list[tuple[dict[str, Array], dict[str, Array]]] = field(default_factory=list)

    def mutants(self, each: int) -> Iterator[tuple[str, onnx.ModelProto]]:
        for kind, mutate in KINDS.items():
            for number in range(each):
                model = onnx.ModelProto()
                model.CopyFrom(self.dense)
                drawn = random.Random(f"{self.name} {kind} {number}")
                try:
                    mutate(Mutation(model, self.sparse, drawn))
                except (IndexError, ValueError):  # nothing there to be changed
                    continue
                if model.SerializeToString() != self.dense.SerializeToString():
                    yield kind, model

    def error(self, mutant: onnx.ModelProto) -> float:
        """Return the largest relative difference of a mutant's results; infinite where it cannot be run."""
        if not self.feeds:
            session = Session(self.sparse, optimize=False)
            for size, count in ((32, 2), (64, 3), (40, 5), (37, 7)):
                feed = drawn_feed(self.sparse, size, count)
                try:
                    self.feeds.append((feed, session.run(feed)))
                except OnnxpruneError:
                    continue
        try:
            session = Session(mutant, optimize=False)
            return max(distance(want, session.run(feed)) for feed, want in self.feeds)
        except OnnxpruneError:
            return float("inf")


def drawn_feed(model: onnx.ModelProto, size: int, count: int) -> dict[str, Array]:
    source, feed = np.random.default_rng(size), {}
    listed = {t.name for t in model.graph.initializer}
    lengths = {"seqlens_k": 2 * count - 1, "total_sequence_length": 2 * count}  # the past, and as many more
    alone = any(
        n.op_type == "GroupQueryAttention" for n in model.graph.node
    )  # it takes one sample with a past

    def drawn_size(dim: onnx.TensorShapeProto.Dimension) -> int:
        if alone and dim.dim_param.startswith("batch"):
            return 1
        large = size if dim.dim_param in ("H", "W") else count
        return int(dim.dim_value or (2 * count if "total" in dim.dim_param else large))

    for value in (i for i in model.graph.input if i.name not in listed):
        shape = [drawn_size(dim) for dim in value.type.tensor_type.shape.dim]
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        drawn = source.standard_normal(shape) if kind.kind == "f" else source.integers(0, 2, shape)
        if value.name in lengths:
            drawn = np.full(shape, lengths[value.name])
        elif alone and kind.kind == "i" and "mask" in value.name:
            drawn = np.ones(shape)
        feed[value.name] = drawn.astype(kind)
    return feed


def distance(wanted: dict[str, Array], found: dict[str, Array]) -> float:
    worst = 0.0
    for name, value in wanted.items():
        other = found[name]
        if np.shape(value) != np.shape(other):
            return float("inf")
        one, two = np.asarray(value, np.float64), np.asarray(other, np.float64)
        worst = max(worst, float(np.abs(one - two).max(initial=0) / (1e-9 + np.abs(one).max(initial=0))))
    return worst


def subjects(pattern: str = "*") -> Iterator[Subject]:
    for name in sorted(n for n, idea in IDEAS.items() if not idea.inexact and fnmatch.fnmatch(n, pattern)):
        yield _subject(name, half(name))
    for name in sorted(fnmatch.filter(NETWORKS, pattern)):
        yield _subject(name, half_of(name))


def _subject(name: str, pruned: Pruned) -> Subject:
    return Subject(name, pruned.sparse.model.proto, pruned.dense.model.proto, pruned.dense.kept)


@dataclass
class Table:
    """Results of mutants, by kind."""

    refused: Counter[str] = field(default_factory=Counter)
    equal: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, subject: Subject, each: int) -> None:
        assert certify(subject.sparse, subject.dense, subject.kept).certified, subject.name
        for kind, mutant in subject.mutants(each):
            if not certify(subject.sparse, mutant, subject.kept).certified:
                self.refused[kind] += 1
            elif (error := subject.error(mutant)) <= (
                TOLERANCE if subject.name != "half_precision" else 1e-2
            ):
                self.equal[kind] += 1
            else:
                self.wrong[kind] += 1
                print(f"certified and wrong: {subject.name}, {kind}: {error:.1e}", flush=True)

    def __str__(self) -> str:
        rows = [("kind", "mutants", "refused", "equal", "wrong")]
        for kind in (*KINDS, "all"):
            found = [c.total() if kind == "all" else c[kind] for c in (self.refused, self.equal, self.wrong)]
            rows.append((kind, str(sum(found)), *map(str, found)))
        return "\n".join(f"{row[0]:20s}" + "".join(f"{cell:>9s}" for cell in row[1:]) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--each", type=int, default=3)
    given = parser.parse_args()
    table = Table()
    for subject in subjects(given.pattern):
        table.add(subject, given.each)
    print(table)
    return int(bool(table.wrong))


if __name__ == "__main__":
    sys.exit(main())
