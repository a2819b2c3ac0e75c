"""Normalisations whose scale, shift or mean reaches more than the weights that could absorb it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import Net
from onnx import helper

from onnxprune.decisions.bases.rotatable import Rotatable
from onnxprune.runtime import Session, compare, sample_feeds

WIDTH = 8
Written = Callable[[Net, str, str], list[str]]
"""The outputs, made of the stream and its normalisation."""


def behind(move: Callable[[Net, str], str]) -> Written:
    """Something between a normalisation and its reader."""
    return lambda n, s, y: [n.linear(move(n, y), 5)]


def gram(of: str) -> Written:
    """The products of the stream, or of its normalisation, with itself."""

    def written(n: Net, s: str, y: str) -> list[str]:
        found = {"s": s, "y": y}[of]
        return [n.linear(y, 5), n.op("MatMul", found, n.transpose(found, 0, 2, 1))]

    return written


def matrices(n: Net, s: str, y: str) -> list[str]:
    """A matrix for each head; as many heads as rows."""
    return [n.op("MatMul", n.unsqueeze(y, 1), n.weight(4, WIDTH, 5))]


def rows(n: Net, y: str) -> str:
    return n.reshape(y, -1, WIDTH)


def gemm(bias: Callable[[Net], list[str]], **how: float) -> Written:
    return lambda n, s, y: [n.op("Gemm", rows(n, y), n.weight(WIDTH, 5), *bias(n), **how)]


def letters(equation: str, *shape: int) -> Written:
    """A product by letters; the weights are the operand without a batch."""

    def written(n: Net, s: str, y: str) -> list[str]:
        operands = [n.weight(*shape), y]
        return [n.op("Einsum", *(operands if equation[0] != "n" else operands[::-1]), equation=equation)]

    return written


REFUSED: dict[str, Written] = {
    "gram of the stream": gram("s"),
    "gram of the normalisation": gram("y"),
    "padded": behind(lambda n, y: n.pad(y, [0, 1, 0, 0, 0, 0])),
    "times a number of each place": behind(lambda n, y: n.mul(y, n.reduce("ReduceMax", "x", [2]))),
    "a sum of places": behind(lambda n, y: n.reduce("ReduceSum", y, [1])),
    "a weighted sum of places": behind(
        lambda n, y: n.op("MatMul", n.transpose(n.linear("x", 7), 0, 2, 1), y)
    ),
    "negated": behind(lambda n, y: n.op("Neg", y)),
    "divided": behind(lambda n, y: n.op("Div", y, n.const(3.0))),
    "added to itself": behind(lambda n, y: n.add(y, n.op("Identity", y))),
    "summed up": behind(lambda n, y: n.op("CumSum", y, n.const(np.asarray(1, np.int64)))),
    "bias times zero": gemm(lambda n: [n.vector(5)], beta=0.0),
    "bias computed": gemm(lambda n: [rows_of_five(n)]),
    "letters": letters("ntc,hcd->nhtd", 3, WIDTH, 5),
    "letters on the left": letters("dc,ntc->ndt", 5, WIDTH),
}
ABSORBED: dict[str, Written] = {
    "plain": behind(lambda n, y: y),
    "turned": behind(lambda n, y: n.transpose(n.transpose(y, 0, 2, 1), 0, 2, 1)),
    "one place": behind(lambda n, y: n.op("Gather", y, n.ints(2), axis=1)),
    "mean": behind(lambda n, y: n.reduce("ReduceMean", y, [1])),
    "attended": behind(lambda n, y: n.op("MatMul", n.op("Softmax", n.linear("x", 4), axis=-1), y)),
    "joined to itself": behind(lambda n, y: n.concat(y, n.op("Identity", y), axis=1)),
    "a matrix for each head": matrices,
    "bias": gemm(lambda n: [n.vector(5)], beta=0.5, alpha=2.0),
    "one number as bias": gemm(lambda n: [n.const(0.3)]),
    "letters of a matrix": letters("ntc,cd->ntd", WIDTH, 5),
}


def rows_of_five(n: Net) -> str:
    return n.reshape(n.linear("x", 5), -1, 5)


def rotated(written: Written, spelled_out: bool = False) -> tuple[float, Rotatable]:
    """Rotate all axes at random; return the largest difference, and the axes."""
    net = Net()
    x = net.input("x", ["N", 4, 6])
    stream = net.linear(x, WIDTH)
    model = net.model(*written(net, stream, net.layer_norm(stream, spelled_out)))
    found = Rotatable.of(model, lambda channels: {g.name for g in channels.groups})
    random = np.random.default_rng(0)
    maps = {}
    for axis in found.axes:
        count = int(np.prod([o.count for o in axis.outer], dtype=int))
        maps[axis.group.name] = np.linalg.qr(random.normal(size=(count, *[axis.group.size] * 2)))[0]
    before, after = (Session(m.proto, optimize=False) for m in (model, found.rotated(maps)))
    feeds = [sample_feeds(before.inputs, shapes={"x": (n, 4, 6)}, samples=1, seed=n)[0] for n in (1, 3)]
    return compare(before, after, feeds).max_rel_error, found


@pytest.mark.parametrize("spelled_out", [False, True])
@pytest.mark.parametrize("name", [*REFUSED, *ABSORBED])
def test_a_parameter_is_absorbed_only_where_all_of_it_is(name: str, spelled_out: bool) -> None:
    error, found = rotated((REFUSED | ABSORBED)[name], spelled_out)
    assert error <= 1e-5
    assert bool(found.absorption.nodes) == (name in ABSORBED), found.refused


@pytest.mark.parametrize("result", [1, 2])
def test_statistics_that_are_read_stay(result: int) -> None:
    def written(n: Net, s: str, y: str) -> list[str]:
        made = n.ops("LayerNormalization", s, n.vector(WIDTH), n.vector(WIDTH), outputs=3, axis=-1)
        return [n.mul(n.linear(made[0], 5), made[result])]

    error, found = rotated(written)
    assert error <= 1e-5
    assert not found.absorption.nodes


@pytest.mark.parametrize("of", ["s", "y"])
def test_products_of_a_stream_with_itself_stay_behind_a_root_mean_square(of: str) -> None:
    def written(n: Net, s: str, y: str) -> list[str]:
        node = helper.make_node(
            "SimplifiedLayerNormalization", [s, n.vector(WIDTH, 0.5, 1.5)], ["norm"], axis=-1
        )
        n.nodes.append(node)
        n.types["norm"] = n.types[s]
        return gram(of)(n, s, "norm")

    error, found = rotated(written)
    assert error <= 1e-5
    assert bool(found.absorption.nodes) == (of == "s")


@pytest.mark.parametrize("epsilon", [1e-12, 0.5])
@pytest.mark.parametrize("kind", ["LayerNormalization", "SimplifiedLayerNormalization", "spelled out"])
def test_the_epsilon_of_a_normalisation_is_kept(kind: str, epsilon: float) -> None:
    def written(n: Net, s: str, y: str) -> list[str]:
        s = n.mul(s, n.const(1e-3)) if epsilon < 1e-5 else s
        if kind == "spelled out":
            centred = n.op("Sub", s, n.reduce("ReduceMean", s, [-1]))
            power = n.reduce("ReduceMean", n.mul(centred, centred), [-1])
            return [n.linear(n.op("Div", centred, n.op("Sqrt", n.add(power, n.const(epsilon)))), 5)]
        parameters = [n.vector(WIDTH) for _ in range(2 if kind == "LayerNormalization" else 1)]
        node = helper.make_node(kind, [s, *parameters], ["norm"], axis=-1, epsilon=epsilon)
        n.nodes.append(node)
        n.types["norm"] = n.types[s]
        return [n.linear("norm", 5)]

    error, found = rotated(written)
    assert error <= 1e-4
    assert found.absorption.nodes


@pytest.mark.parametrize("part", ["scale", "shift"])
def test_a_parameter_of_more_axes_is_none_of_a_normalisation(part: str) -> None:
    """The result has an axis more, which the operator would not have."""

    def written(n: Net, s: str, y: str) -> list[str]:
        centred = n.op("Sub", s, n.reduce("ReduceMean", s, [-1]))
        power = n.reduce("ReduceMean", n.mul(centred, centred), [-1])
        made = n.op("Div", centred, n.op("Sqrt", n.add(power, n.const(1e-5))))
        numbers = n.const(np.linspace(0.5, 1.5, WIDTH).reshape(1, 1, 1, -1))
        return [n.linear(n.mul(made, numbers) if part == "scale" else n.add(made, numbers), 5)]

    error, _ = rotated(written)
    assert error <= 1e-5
