"""The allocation as a linear program: against all plans, and against the heuristic, blocks included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.axes import Factor
from onnxprune.analysis.groups.channels import Group
from onnxprune.analysis.groups.cost import Polynomial
from onnxprune.search import Balance, Budget, Candidate
from onnxprune.search.budgets import REACHED
from onnxprune.search.integer_program import solved
from onnxprune.search.optimum import _Search


def problem(seed: int, groups: int, reduction: float, budgets: int = 1) -> Balance:
    """Random products of widths; some groups lie in blocks, groups of one that multiply their terms."""
    random = np.random.default_rng(seed)
    factors = [Factor(int(random.integers(3, 9)) * 8) for _ in range(groups)]
    blocks = [Factor(1) for _ in range(groups // 2)]
    terms = []
    for k, factor in enumerate(factors):
        inside = [blocks[k // 2]] if k // 2 < len(blocks) else []
        terms.append((float(random.uniform(1, 9)), [factor, *inside]))
        terms.append((float(random.uniform(1, 9)), [factor, factors[(k + 1) % groups], *inside]))
    costs = [
        Polynomial([(c * random.uniform(0.5, 2), dims) for c, dims in terms], {*factors, *blocks})
        for _ in range(budgets)
    ]
    offers = []
    for number, factor in enumerate([*factors, *blocks]):
        size = factor.count
        steps = tuple(range(8, size, 8)) if size > 1 else (1,)
        losses = tuple(np.cumsum(random.exponential(1.0 if size > 1 else 4.0, len(steps))).tolist())
        group = Group(f"g{number}", size, (), (), False, factor)
        prices = tuple(np.maximum.accumulate(np.diff([0.0, *losses])).tolist())
        offers.append(Candidate(group, np.arange(size), steps, losses, prices))
    made = [Budget(f"cost{k}", cost, cost.value(), reduction) for k, cost in enumerate(costs)]
    return Balance(offers, made)


def loss(balance: Balance, levels: tuple[int, ...] | list[int]) -> float:
    return sum((0.0, *o.losses)[n] for o, n in zip(balance.offers, levels, strict=True))


@given(st.integers(0, 999), st.floats(0.2, 0.7), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_the_best_of_all_plans(seed: int, reduction: float, budgets: int) -> None:
    balance = problem(seed, 3, reduction, budgets)
    plans = itertools.product(*(range(len(o.widths)) for o in balance.offers))
    met = [p for p in plans if balance.excess(balance.widths(p)).max() <= REACHED]
    found = solved(balance)
    if not met:
        assert found is None
        return
    assert found is not None
    assert balance.excess(balance.widths(found)).max() <= REACHED + 1e-6
    assert loss(balance, found) == pytest.approx(min(loss(balance, p) for p in met), rel=1e-6)


@given(st.integers(0, 999), st.floats(0.2, 0.6))
@settings(max_examples=8, deadline=None)
def test_the_heuristic_is_near(seed: int, reduction: float) -> None:
    """Moves and exchanges from the plan of the multipliers, against the program."""
    balance = problem(seed, 6, reduction)
    program = solved(balance)
    assert program is not None
    heuristic = min(
        (_Search(balance, start).run() for start in ([len(o.steps) for o in balance.offers], program)),
        key=_Search.rank,
    )
    assert heuristic.loss <= loss(balance, program) + 1e-9
    alone = _Search(balance, [len(o.steps) for o in balance.offers]).run()
    assert alone.excess <= REACHED
    assert alone.loss >= loss(balance, program) - 1e-6


def test_large_programs_are_left_to_the_heuristic() -> None:
    assert solved(problem(0, 60, 0.5)) is None
