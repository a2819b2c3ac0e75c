"""Networks in which parts of a tensor meet again: one factor is several independent indices."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from meeting_networks import check_all, check_evidence, check_plan

from onnxprune.analysis.evidence.constant_propagation import find_constants
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.masks import dead_channels
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform

pytestmark = pytest.mark.slow


AT_ONCE, QUICK, MANY = 10, 100, 300
FIRST = [pytest.param(k, marks=[pytest.mark.slow] * (k >= QUICK)) for k in range(0, MANY, AT_ONCE)]


@pytest.mark.parametrize("first", FIRST)
def test_random_networks(first: int) -> None:
    """By plan, by plan with other channels in each part, and by evidence; at several batches."""
    for seed in range(first, first + AT_ONCE):
        check_all(seed)


# --- freedom -----------------------------------------------------------------------------------------------


def tokens(heads: int, width: int, length: int = 2) -> tuple[Net, str]:
    """Projected tokens, heads on an axis of their own."""
    net = Net()
    x = net.linear(net.input("x", [2, length, 5]), heads * width, bias=False)
    return net, net.reshape(x, 0, length, heads, width)


def gram(net: Net, x: str) -> str:
    rank = len(net.shape(x))
    return net.op("MatMul", x, net.transpose(x, *range(rank - 2), rank - 1, rank - 2))


def free(channels: Channels) -> dict[str, list[int]]:
    return {name: [f.size for f in outer] for name, outer in channels.freedoms.items()}


def exact(model: Model) -> Channels:
    """Check that pruning is exact, alike and apart, by plan and by evidence, and return the groups."""
    for apart in (False, True):
        for seed in range(3):
            check_plan(model, seed, apart)
            check_evidence(model, seed, apart)
    return find_channels(model)


def across_heads(form: str) -> Model:
    """Every head with every head: their widths are lined up, so no head may lose other elements."""
    net, x = tokens(3, 4)
    if form == "merged":
        scores = gram(net, net.reshape(x, 0, 6, 4))
    elif form == "tokens":
        scores = gram(net, x)
    elif form == "einsum":
        scores = net.op("Einsum", x, x, equation="nthk,ntgk->ntgh")
    elif form == "outer":
        a, b = net.unsqueeze(x, 3), net.unsqueeze(x, 2)
        scores = net.reduce("ReduceSum", net.op("Mul", a, b), [-1], 0)
    else:
        unit = net.op("Div", x, net.add(net.reduce("ReduceL2", x, [-1]), net.const(0.1)))
        scores = gram(net, unit)
    scores = net.sized(scores, [2, *(net.shape(scores)[1:])])
    size = 36 if form == "merged" else 18
    return net.model(net.linear(net.sized(net.op("Flatten", scores), [2, size]), 3))


@pytest.mark.parametrize("form", ["merged", "tokens", "einsum", "outer", "cosine"])
def test_heads_that_meet_other_heads_lose_the_same_elements(form: str) -> None:
    channels = exact(across_heads(form))
    width = next(g for g in channels.groups if g.size == 4)
    assert width.name not in channels.freedoms


@pytest.mark.parametrize("equation", ["nthk,nshk->nhts", "nthk,nshk->nths"])
def test_heads_that_meet_only_themselves_may_lose_others(equation: str) -> None:
    net, x = tokens(3, 4)
    scores = net.op("Einsum", x, x, equation=equation)
    model = net.model(net.linear(net.sized(net.op("Flatten", scores), [2, 12]), 3))
    channels = exact(model)
    assert list(free(channels).values()) == [[3]]


def test_a_gram_matrix_behind_a_grouped_convolution() -> None:
    """Style: channels of all groups meet in it, so the groups cannot keep other channels."""
    net = Net()
    x = net.transpose(net.linear(net.input("x", [2, 5, 4]), 6), 0, 2, 1)
    y = net.relu(net.conv(x, 6, group=3))
    together = net.linear(net.sized(net.op("Flatten", gram(net, net.reshape(y, 0, 3, 10))), [2, 9]), 2)
    assert exact(net.model(together)).groups


# --- zeros -------------------------------------------------------------------------------------------------


def test_zeros_along_one_index_are_no_zeros_along_another() -> None:
    """``Σᵢ xᵢ · f(xⱼ)`` is not zero at a channel j, although x is."""
    net = Net()
    x = net.linear(net.input("x", [2, 4]), 6)
    summed = net.op("Einsum", x, net.op("Sigmoid", x), equation="ni,nj->nj")
    model = net.model(net.reduce("ReduceSum", net.op("Mul", summed, summed), [1]))
    assert not exact(model).groups


def test_sums_over_both_indices_of_an_outer_product() -> None:
    """It is zero in the row and in the column of a removed channel."""
    net = Net()
    x = net.linear(net.input("x", [2, 4]), 6)
    outer = net.mul(net.unsqueeze(x, 2), net.unsqueeze(net.op("Tanh", x), 1))
    model = net.model(net.reduce("ReduceL2", outer, [1, 2]))
    assert [g.size for g in exact(model).groups] == [6]


@pytest.mark.parametrize("kind", ["Add", "Max", "Sub"])
def test_outer_sums_are_not_zero_anywhere(kind: str) -> None:
    net = Net()
    x = net.linear(net.input("x", [2, 4]), 6)
    outer = net.op(kind, net.unsqueeze(x, 2), net.unsqueeze(x, 1))
    assert not exact(net.model(net.reduce("ReduceL2", outer, [1, 2]))).groups


def test_an_axis_that_is_only_stretched_is_not_zero() -> None:
    """The repeated elements are one factor with the channels, by the sum, but not at the same index."""
    net = Net()
    x = net.linear(net.input("x", [2, 4]), 6)
    repeated = net.op("Expand", net.unsqueeze(x, 1), net.ints(1, 6, 1))
    met = net.add(repeated, net.transpose(repeated, 0, 2, 1))
    assert not exact(net.model(net.reduce("ReduceL2", net.op("Tanh", met), [1, 2]))).groups


def test_a_stretched_weight_of_an_einsum_is_no_masked_operand() -> None:
    net = Net(opset=17)
    x = net.op("Sigmoid", net.linear(net.input("x", [2, 4]), 6))
    y = net.op("Einsum", x, net.weight(1, 3), equation="ni,ij->nj")
    assert not exact(net.model(net.sized(y, [2, 3]))).groups


def test_a_divisor_keeps_its_numbers_where_both_indices_are_removed() -> None:
    """``1 / (xᵢ + xⱼ)`` would be infinite at one element: its weights stay, the readers are masked."""
    net = Net()
    x = net.op("Abs", net.linear(net.input("x", [2, 4]), 6, bias=False))
    met = net.op("Reciprocal", net.add(net.unsqueeze(x, 2), net.unsqueeze(x, 1)))
    y = net.linear(net.sized(net.op("Flatten", met), [2, 36]), 3)
    model = net.model(y)
    channels = find_channels(model)
    (group,) = channels.groups
    assert [(p.axis, p.weight) for p in group.places] == [(1, False), (0, True)]
    assert prune_exactly(model, half_of_each(channels)).error <= 1e-5


def test_zeros_of_an_einsum_are_found_along_their_own_index() -> None:
    """Without a plan: rows that are zero are, columns beside them are not."""
    net = Net()
    x = net.input("x", [2, 4])
    w = net.weight(4, 6)
    a = net.op("MatMul", x, w)
    outer = net.op("Einsum", a, net.op("Sigmoid", a), equation="ni,nj->nij")
    model = net.model(net.linear(net.sized(net.op("Flatten", outer), [2, 36]), 3))
    values = model.array(w).copy()
    values[:, [1, 4]] = 0
    model.set_array(w, values)
    channels = find_channels(model)
    known = find_constants(channels.typing).known[outer]
    rows = np.broadcast_to(known, (1, 6, 6))[0] == 0
    assert np.array_equal(rows, np.isin(np.arange(6), [1, 4])[:, None] & np.ones(6, bool))
    exact(model)


def test_a_residual_stack_keeps_its_channels_in_sums_without_weights() -> None:
    """Inputs and outputs are one factor of square weights: their rows and columns are distinguished."""
    net = Net()
    x = net.linear(net.input("x", [2, 3, 4]), 6, bias=False)
    x = net.add(x, net.linear(net.relu(x), 6, bias=False))
    model = net.model(net.reduce("ReduceSum", gram(net, x), [1]))
    assert [g.size for g in exact(model).groups] == [6]


def test_a_weight_whose_axis_has_a_factor_twice_is_dead_only_as_a_whole() -> None:
    """Rows and columns of a matrix lie on one axis of the weight; some columns are zero, no row is."""
    net = Net()
    x = net.input("x", [2, 4])
    w = net.weight(4, 9)
    square = net.reshape(net.op("MatMul", x, w), 0, 3, 3)
    met = net.mul(square, net.transpose(square, 0, 2, 1))
    model = net.model(net.linear(net.sized(net.op("Flatten", met), [2, 9]), 2))
    values = model.array(w).reshape(4, 3, 3).copy()
    values[:, :, 1] = 0
    model.set_array(w, values.reshape(4, 9))
    last = model.nodes[-2].input[1]
    model.set_array(last, np.zeros_like(model.array(last)))
    channels = find_channels(model)
    assert [g.size for g in channels.groups] == [3]
    assert not dead_channels(channels)[1]


# --- the whole way -----------------------------------------------------------------------------------------


def test_a_gram_matrix_of_heads_from_file_to_file() -> None:
    """The sparse model is the given one with zeros; the dense one computes the same."""
    model = across_heads("merged")
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model).model
    assert Transform()(sparse).facts["equal"]
    removed = half_of_each(channels := find_channels(model))
    outcome = prune_exactly(model, removed, channels)
    assert outcome.change > 1e-3
    assert outcome.error <= 1e-5
