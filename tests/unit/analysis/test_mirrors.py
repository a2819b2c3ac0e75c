"""Axes in reverse order: the same channels, counted from the other end."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.algebra.axes import Block, Dim, Factor, Mirror, Product, Sum, factors, resolve, split, unify
from onnxprune.algebra.kept_axes import kept_indices
from onnxprune.analysis.evidence.liveness import find_evidence
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import Model

WHY = Block("node", "Operator", "a test")


def elements(dim: Dim, names: dict[Factor, str]) -> list[str]:
    """Write out an axis element by element."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return [f"{names[dim]}{k}" for k in range(dim.count)]
    if isinstance(dim, Sum):
        return [e for part in dim.parts for e in elements(part, names)]
    if isinstance(dim, Mirror):
        return elements(dim.of, names)[::-1]
    made = [""]
    for part in dim.parts:
        made = [f"{a}{b}" for a in made for b in elements(part, names)]
    return made


def test_a_mirror_of_a_mirror_is_the_axis() -> None:
    a = Factor(4)
    assert resolve(Mirror(Mirror(a))) is a
    assert resolve(Mirror(Factor(1))).size == 1


@pytest.mark.parametrize("seed", range(40))
def test_resolving_keeps_the_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    names: dict[Factor, str] = {}

    def drawn(depth: int) -> Dim:
        kind = random.integers(0, 4) if depth else 0
        if kind == 0:
            factor = Factor(int(random.integers(1, 4)))
            names[factor] = chr(97 + len(names))
            return factor
        if kind == 1:
            return Mirror(drawn(depth - 1))
        parts = tuple(drawn(depth - 1) for _ in range(random.integers(2, 4)))
        return Sum(parts) if kind == 2 else Product(parts)

    def written(dim: Dim) -> list[str]:
        """As `elements`, without resolving anything, single elements left out of products."""
        if isinstance(dim, Factor):
            return [f"{names[dim]}{k}" for k in range(dim.count)]
        if isinstance(dim, Mirror):
            return written(dim.of)[::-1]
        if isinstance(dim, Sum):
            return [e for part in dim.parts for e in written(part)]
        made = [""]
        for part in dim.parts:
            made = [f"{a}{b}" for a in made for b in (written(part) if part.size != 1 else [""])]
        return made if dim.size != 1 else elements(dim, names)

    dim = drawn(3)
    if dim.size != 1 and not any(f.size == 1 for f in names):
        assert elements(dim, names) == written(dim)


def test_a_cut_is_counted_from_the_other_end() -> None:
    a = Factor(10)
    first, second = split(Mirror(a), 3, WHY)
    assert (first.size, second.size) == (3, 7)
    assert isinstance(resolve(a), Sum)
    names = dict(zip(factors(a), "xy", strict=True))
    assert elements(Sum((first, second)), names) == elements(a, names)[::-1]


@pytest.mark.parametrize("size", [6, 7])
def test_an_axis_equal_to_its_mirror_loses_pairs(size: int) -> None:
    a = Factor(size)
    assert unify(a, Mirror(a), WHY)
    assert resolve(a) == resolve(Mirror(a))
    half = factors(a)[0]
    kept = {half: np.asarray([0, 2])}
    assert kept_indices(a, kept).tolist() == ([0, 2, 3, 5] if size == 6 else [0, 2, 3, 4, 6])


@pytest.mark.parametrize("swapped", [False, True])
def test_mirrors_meet_sums_and_products(swapped: bool) -> None:
    for made in (Sum((Factor(2), Factor(4))), Product((Factor(2), Factor(3)))):
        a = Factor(6)
        assert unify(made, Mirror(a), WHY) if swapped else unify(Mirror(a), made, WHY)
        names = dict(zip(factors(made), "xy", strict=True))
        assert elements(a, names) == elements(made, names)[::-1]
        assert not any(f.blocks for f in factors(a))


def exact(model: Model, *widths: int) -> None:
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    for seed in range(3):
        removed = half_of_each(channels, seed)
        outcome = prune_exactly(model, removed, channels, seed)
        assert outcome.error <= 1e-5
        assert outcome.change > 1e-3
        assert find_evidence(find_channels(masked(channels, removed))).removed == removed


def flipped(net: Net, x: str, start: int = -1, axis: int = 1) -> str:
    return net.slice(x, start, -(2**31), axis=axis, step=-1)


@pytest.mark.parametrize("start", [-1, 15, 2**31])
def test_a_slice(start: int) -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", [1, 3, 6, 6]), 16))
    exact(net.model(net.conv(net.relu(net.conv(flipped(net, x, start), 12)), 5)), 16, 12)


def test_a_slice_and_unreversed_operands() -> None:
    """Both ends of an axis meet: half as many channels, two places each."""
    net = Net()
    x = net.relu(net.conv(net.input("x", [1, 3, 6, 6]), 16))
    exact(net.model(net.conv(net.relu(net.conv(net.add(x, flipped(net, x)), 12)), 5)), 8, 12)


def test_grouped_channels() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", [1, 3, 6, 6]), 16))
    y = net.relu(net.conv(flipped(net, x), 16, group=4))
    model = net.model(net.conv(flipped(net, y), 5))
    channels = find_channels(model)
    for seed in range(3):
        outcome = prune_exactly(model, half_of_each(channels, seed), channels)
        assert outcome.error <= 1e-5


def test_norms_of_reversed_channels() -> None:
    net = Net()
    x = net.linear(net.input("x", [4, 6]), 16)
    y = flipped(net, x)
    root = net.op("Sqrt", net.add(net.reduce("ReduceMean", net.mul(y, y), [-1]), net.const(1e-5)))
    exact(net.model(net.linear(net.mul(net.op("Div", y, root), net.vector(16, 0.7, 1.3)), 3)), 16)


def test_time_that_is_turned_round_stays() -> None:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, "T"]), 16))
    exact(net.model(net.conv(net.relu(net.conv(flipped(net, x, axis=2), 12)), 5)), 16, 12)
