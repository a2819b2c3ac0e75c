"""Divisions by results of branches and states of loops: a removed channel is no divisor."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import half_of_each, prune_exactly
from training_networks import parsed

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model

INFINITE = "it has no finite value where a channel is removed"
RANDOM = np.random.default_rng(5)

BRANCHES = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 3] x, bool choice) => (float[N, 2] out)
        <float[3, 4] first, float[3, 4] second, float[4, 2] last> {
        y = If (choice) <
            then_branch = yes () => (float[N, 4] a) { m = MatMul(x, first) a = FUNCTION(m) },
            else_branch = no () => (float[N, 4] b) { n = MatMul(x, second) b = Abs(n) }
        >
        z = Reciprocal(y)
        out = MatMul(z, last)
    }
"""

TURNS = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 3] x) => (float[N, 2] out) <float[3, 4] first, float[4, 2] last> {
        start = MatMul(x, first)
        count = Constant<value_int = 3>()
        go = Constant<value = bool {1}>()
        y = Loop (count, go, start) <
            body = turn (int64 i, bool on, float[N, 4] state) => (bool more, float[N, 4] next) {
                more = Identity(on)
                INSIDE
            }
        >
        OUTSIDE
        out = MatMul(z, last)
    }
"""


def network(text: str) -> Model:
    shapes = {"first": (3, 4), "second": (3, 4), "last": (4, 2)}
    weights = {k: RANDOM.normal(size=s).astype(np.float32) for k, s in shapes.items() if f"{k}" in text}
    return Model(parsed(text, **weights))


@pytest.mark.parametrize("function", ["Abs", "Tanh", "Sigmoid"])
def test_results_of_branches(function: str) -> None:
    channels = find_channels(network(BRANCHES.replace("FUNCTION", function)))
    assert not channels.groups
    assert INFINITE in {b.reason for axis in channels.blocked for b in axis.reasons}


def test_results_of_branches_that_stay_above_zero() -> None:
    model = network(BRANCHES.replace("FUNCTION", "Sigmoid").replace("Abs", "Sigmoid"))
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [4]
    feeds = [
        {"x": RANDOM.normal(size=(5, 3)).astype(np.float32), "choice": np.array(k)} for k in (True, False)
    ]
    assert prune_exactly(model, half_of_each(channels), channels, feeds=feeds).error <= 1e-5


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("next = Abs(state)", "z = Reciprocal(y)"),
        ("next = Reciprocal(state)", "z = Identity(y)"),
        ("one = Tanh(state) next = Reciprocal(one)", "z = Identity(y)"),
    ],
)
def test_states_of_loops(inside: str, outside: str) -> None:
    channels = find_channels(network(TURNS.replace("INSIDE", inside).replace("OUTSIDE", outside)))
    assert not channels.groups


@pytest.mark.parametrize("operator", ["Max", "Min", "Where"])
def test_numbers_that_depend_on_the_input_as_well(operator: str) -> None:
    """The larger one of zero and of another number can be zero; its weights keep their numbers."""
    choose = {"Where": "c = Greater(m, s) y = Where(c, m, s)"}.get(operator, f"y = {operator}(m, s)")
    model = network(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3] x) => (float[N, 2] out) <float[3, 4] first, float[4, 2] last> {{
            m = MatMul(x, first)
            axes = Constant<value_ints = [1]>()
            s = ReduceSum(x, axes)
            {choose}
            z = Reciprocal(y)
            out = MatMul(z, last)
        }}
    """)
    channels = find_channels(model)
    assert [(p.tensor, p.weight) for g in channels.groups for p in g.places] == [
        ("first", False),
        ("last", True),
    ]
    assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("deviation", [0.5, 0.0])
def test_constants_along_the_channels(deviation: float) -> None:
    """A standard deviation of each channel is no number that masking sets to zero."""
    deviations = np.array([1.0, 2.0, deviation, 4.0], np.float32)
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3] x) => (float[N, 2] out) <float[3, 4] first, float[4] by, float[4, 2] last> {
            m = MatMul(x, first)
            z = Div(m, by)
            out = MatMul(z, last)
        }
    """
    shapes = {"first": (3, 4), "last": (4, 2)}
    weights = {k: RANDOM.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    model = Model(parsed(text, by=deviations, **weights))
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == ([4] if deviation else [])
    if deviation:
        assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("number", [0.0, np.inf, np.nan, 2.0], ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (1, 4)], ids=str)
@pytest.mark.parametrize("operator", ["Div", "Mul"])
def test_constants_that_make_a_removed_channel_no_number(
    operator: str, shape: tuple[int, ...], number: float
) -> None:
    """Zero over zero and zero times infinity are no numbers, and Erf of infinity is one."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3] x) => (float[N, 2] out)
            <float{list(shape)} by, float[3, 4] first, float[4, 2] last> {{
            y = MatMul(x, first)
            scaled = {operator}(y, by)
            z = Erf(scaled)
            out = MatMul(z, last)
        }}
    """
    shapes = {"first": (3, 4), "last": (4, 2)}
    weights = {k: RANDOM.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    by = np.full(shape, number, np.float32)
    by.flat[1:] = 1.0  # one entry of several is enough
    model = Model(parsed(text, by=by, **weights))
    channels = find_channels(model)
    exact = number in ((2.0, np.inf) if operator == "Div" else (2.0, 0.0))
    assert [g.size for g in channels.groups] == ([4] if exact else [])
    if exact:
        assert prune_exactly(model, half_of_each(channels), channels).error <= 1e-5


@pytest.mark.parametrize("shift", ["Identity", "Add"])
@pytest.mark.parametrize("total", ["ReduceSum", "ReduceMean"])
def test_softmax_in_single_operators_over_heads(total: str, shift: str) -> None:
    """A head whose scores are zero is divided by a sum of exponentials, which is above zero."""
    axes = "axes = [-1]" if total == "ReduceMean" else "keepdims = 1"
    given = "" if total == "ReduceMean" else ", last"
    shifted = "Identity(s)" if shift == "Identity" else "Add(s, mask)"
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, L, 8] x, float[N, 1, 1, L] mask) => (float[N, L, 3] out)
            <float[8, 8] q, float[8, 8] k, float[8, 8] v, float[8, 3] o, int64[4] apart = {{0, 0, 2, 4}},
             int64[3] joined = {{0, 0, 8}}, int64[1] last = {{-1}}, float few = {{0.00001}}> {{
            x1 = MatMul(x, q) x2 = Reshape(x1, apart) x3 = Transpose<perm = [0, 2, 1, 3]>(x2)
            y1 = MatMul(x, k) y2 = Reshape(y1, apart) y3 = Transpose<perm = [0, 2, 3, 1]>(y2)
            z1 = MatMul(x, v) z2 = Reshape(z1, apart) z3 = Transpose<perm = [0, 2, 1, 3]>(z2)
            s = MatMul(x3, y3) t = {shifted}
            most = ReduceMax<axes = [-1]>(t) less = Sub(t, most) power = Exp(less)
            all = {total}<{axes}>(power{given}) plus = Add(all, few) share = Div(power, plus)
            h = MatMul(share, z3) m = Transpose<perm = [0, 2, 1, 3]>(h) n = Reshape(m, joined)
            out = MatMul(n, o)
        }}
    """
    shapes = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 3)}
    weights = {k: RANDOM.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    model = Model(parsed(text, **weights))
    channels = find_channels(model)
    assert 2 in [g.size for g in channels.groups]  # the heads
    assert INFINITE not in {b.reason for axis in channels.blocked for b in axis.reasons}
    feeds = [
        {
            "x": RANDOM.normal(size=(n, length, 8)).astype(np.float32),
            "mask": np.where(np.arange(length) < length - 1, 0, -1e4).astype(np.float32).reshape(1, 1, 1, -1)
            * np.ones((n, 1, 1, 1), np.float32),
        }
        for n, length in ((1, 5), (2, 3))
    ]
    assert prune_exactly(model, half_of_each(channels), channels, feeds=feeds).error <= 1e-5
