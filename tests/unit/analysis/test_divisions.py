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
        ("one = Sigmoid(state) next = Reciprocal(one)", "z = Identity(y)"),
    ],
)
def test_states_of_loops(inside: str, outside: str) -> None:
    channels = find_channels(network(TURNS.replace("INSIDE", inside).replace("OUTSIDE", outside)))
    assert not channels.groups


@pytest.mark.parametrize("operator", ["Max", "Min", "Where"])
def test_numbers_that_depend_on_the_input_as_well(operator: str) -> None:
    """The larger one of zero and of a number that is no channel's can be zero."""
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
    assert not find_channels(model).groups


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
