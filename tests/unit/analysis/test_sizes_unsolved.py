"""Equations without a symbol to solve for: divided by factors that are never 0, and solved again later."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from helpers import half_of_each, prune_exactly
from onnx import numpy_helper, parser

from onnxprune.algebra.sizes.algebra import floor_div, stretched
from onnxprune.algebra.sizes.facts import ContradictionError, SizeFacts
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.shapes.reference import _solved
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.ir import Model, check

WIDTH, HEADS, HIDDEN, ROWS = 12, 3, 20, 30


def network(positions: str) -> Model:
    """Return a network whose tokens are added to positions of their own length, then viewed by the tokens'.

    Args:
        positions: Name of the input that positions are counted along.
    """
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[n, s] tokens, int64[n, m] marks) => (float[n, s, 5] y)
        <int64[1] all = {{-1}}, int64[1] heads = {{{HEADS}}}, int64[2] folded = {{-1, {WIDTH}}},
         float unit = {{1.0}}> {{
            words = Gather(table, tokens)
            places = Gather(rows, {positions})
            both = Add(words, places)
            view = Shape(tokens)
            apart = Concat<axis = 0>(view, heads, all)
            split = Reshape(both, apart)
            turned = Transpose<perm = [0, 2, 1, 3]>(split)
            scaled = Mul(turned, unit)
            back = Transpose<perm = [0, 2, 1, 3]>(scaled)
            one = Concat<axis = 0>(view, all)
            joined = Reshape(back, one)
            mixed = MatMul(joined, inner)
            stream = Add(both, mixed)
            lines = Reshape(stream, folded)
            hidden = MatMul(lines, first)
            active = Relu(hidden)
            last = MatMul(active, second)
            shape = Concat<axis = 0>(view, all)
            y = Reshape(last, shape) }}"""
    proto = parser.parse_model(text)
    random = np.random.default_rng(1)
    shapes = {
        "table": (ROWS, WIDTH), "rows": (ROWS, WIDTH), "inner": (WIDTH, WIDTH),
        "first": (WIDTH, HIDDEN), "second": (HIDDEN, 5),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return check(Model(proto))


def test_lengths_that_broadcast_are_solved_from_the_number_of_elements() -> None:
    shapes = infer_sizes(network("marks").proto).shapes
    assert [str(size) for size in shapes["stream"]] == ["n", "s", str(WIDTH)]
    assert shapes["lines"] == (shapes["stream"][0] * shapes["stream"][1], WIDTH)


def test_the_channels_are_those_of_equal_lengths() -> None:
    marked, plain = (find_channels(network(name)) for name in ("marks", "tokens"))
    assert [(g.name, g.size) for g in marked.groups] == [(g.name, g.size) for g in plain.groups]
    assert len(marked.groups) >= 2
    random = np.random.default_rng(0)
    feeds = [
        {"tokens": random.integers(0, ROWS, (n, s)), "marks": random.integers(0, ROWS, (n, m))}
        for n, s, m in ((2, 7, 7), (1, 5, 1), (3, 1, 1))
    ]
    outcome = prune_exactly(network("marks"), half_of_each(marked), marked, feeds=feeds)
    assert outcome.error < 1e-5


def test_broadcasting_twice_to_one_length_is_broadcasting_once() -> None:
    facts = SizeFacts()
    a, b = (facts.algebra.symbol(name, 1) for name in "ab")
    once = stretched(a, b)
    assert stretched(a, once) == stretched(once, b) == stretched(once, a) == once
    assert once not in (a, b)


def test_an_equation_is_divided_by_lengths_that_are_never_0() -> None:
    facts = SizeFacts()
    n, a, b = facts.algebra.symbol("n", 1), *(facts.algebra.symbol(name, 0) for name in "ab")
    facts.same(n * stretched(a, b), n * a, "node", "elements")
    assert facts.size_now(stretched(a, b)) == a


def test_an_equation_is_not_divided_by_a_length_that_may_be_0() -> None:
    facts = SizeFacts()
    n, a, b = (facts.algebra.symbol(name, 0) for name in "nab")
    facts.same(n * stretched(a, b), n * a, "node", "elements")
    assert facts.size_now(stretched(a, b)) == stretched(a, b)


def test_an_equation_is_solved_once_a_later_one_allows_it() -> None:
    facts = SizeFacts()
    a, b, c = (facts.algebra.symbol(name, 1) for name in "abc")
    whole = 6 * stretched(b, c)
    facts.same(a * floor_div(whole, a), whole, "view", "it takes all elements")
    assert facts.size_now(stretched(b, c)) != a
    facts.same(floor_div(whole, a), 6, "product", "inner axes")
    assert facts.size_now(stretched(b, c)) == a


@pytest.mark.parametrize("other", [7, 11])
def test_an_equation_that_a_later_one_refutes_is_a_contradiction(other: int) -> None:
    facts = SizeFacts()
    a, b, c = (facts.algebra.symbol(name, 1) for name in "abc")
    part = floor_div(b * c, a + 1)
    facts.same(part * a, 3 * a * a * a, "view", "it takes all elements")
    with pytest.raises(ContradictionError):
        facts.same(a, 2, "first", "known"), facts.same(part, other, "second", "inner axes")


@pytest.mark.parametrize("factor", [2, 5])
def test_a_symbol_with_a_factor_is_solved_where_the_rest_is_a_multiple(factor: int) -> None:
    """``n = n·t / 5`` is ``t = 5``, as no open axis is empty."""
    facts = SizeFacts()
    n, t = facts.algebra.symbol("n"), facts.algebra.symbol("t")
    facts.same(n * factor, n * t, "node", "batch")
    assert facts.now(t) == factor
    length = facts.algebra.symbol("s")
    facts.same(length * factor, n * (3 * factor), "node", "length")
    assert facts.now(length) == n * 3


def test_a_baked_length_is_found_behind_a_reshape() -> None:
    """The target says five steps: the sequence has five, at any batch."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, t, 3] x, float[k, n, 3] c) => (float[s, m, 3] y) <int64[3] target = {5, -1, 3}> {
            steps = Reshape(x, target)
            y = Concat<axis = 0>(steps, c) }"""
    sizes = infer_sizes(parser.parse_model(text))
    assert sizes.shapes["x"][1:] == (5, 3)
    assert sizes.shapes["y"][1] == sizes.shapes["x"][0]


def test_a_given_shape_with_a_fraction_of_a_symbol_is_no_number() -> None:
    """A shape is solved for a symbol alone."""
    facts = SizeFacts()
    n = facts.algebra.symbol("n")
    assert _solved(n * Fraction(1, 5), 2) is None
    assert _solved(n + 3, 5) == {"n": 2}
