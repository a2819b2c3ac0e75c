"""The algebra: after unification, two descriptions of an axis lose the same elements, for all removals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.axes import (
    Block,
    Dim,
    Factor,
    Product,
    Sum,
    block,
    concatenated,
    factor_out,
    factors,
    nested,
    resolve,
    split,
    unify,
)
from onnxprune.algebra.kept_axes import Kept, at_numbers, channel_of, kept_fraction, kept_indices, kept_size
from onnxprune.algebra.sizes.algebra import Algebra, Extent, evaluate, floor_div

WHY = Block("node", "Operator", "because")
Draw = Callable[..., object]


@st.composite
def descriptions(draw: Draw, count: int = 3, largest: int = 24) -> list[Dim]:
    """Several descriptions of axes of one size, which may have factors in common."""
    size = draw(st.integers(1, largest))
    pool: dict[int, list[Factor]] = {}
    return [_description(draw, size, pool, 3) for _ in range(count)]  # type: ignore[arg-type]


def _description(draw: Draw, size: int, pool: dict[int, list[Factor]], depth: int) -> Dim:
    divisors = [d for d in range(2, size) if size % d == 0]
    kinds = ["factor", "known factor"] + (["sum"] if size > 1 else []) + (["product"] if divisors else [])
    kind = draw(st.sampled_from(kinds if depth else kinds[:2]))
    if kind == "sum":
        cut: int = draw(st.integers(1, size - 1))  # type: ignore[assignment]
        return Sum(tuple(_description(draw, s, pool, depth - 1) for s in (cut, size - cut)))
    if kind == "product":
        major: int = draw(st.sampled_from(divisors))  # type: ignore[assignment]
        return Product(tuple(_description(draw, s, pool, depth - 1) for s in (major, size // major)))
    known = pool.setdefault(size, [])
    if kind == "known factor" and known:
        return draw(st.sampled_from(known))  # type: ignore[return-value]
    known.append(Factor(size, [WHY] if draw(st.integers(0, 5)) == 5 else []))
    return known[-1]


def some_kept(dims: list[Dim], seed: int) -> Kept:
    """Keep some of every free factor, at least one element each."""
    random = np.random.default_rng(seed)
    kept = {}
    for factor in dict.fromkeys(f for d in dims for f in factors(d)):
        if factor.free:
            chosen = np.flatnonzero(random.uniform(size=factor.size) < 0.6)
            kept[factor] = chosen if len(chosen) else np.asarray([factor.size - 1])
    return kept


def prunable(dim: Dim) -> list[Factor]:
    return [f for f in factors(dim) if f.free]


def same(a: Dim, b: Dim, kept: Kept) -> bool:
    return np.array_equal(kept_indices(a, kept), kept_indices(b, kept))


steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4)


@given(descriptions(), steps, st.integers(0, 99))
@settings(max_examples=400, deadline=None)
def test_unified_dims_lose_the_same_elements(
    dims: list[Dim], pairs: list[tuple[int, int]], seed: int
) -> None:
    size = dims[0].size
    for a, b in pairs:
        unify(dims[a], dims[b], WHY)
    kept = some_kept(dims, seed)
    for a, b in pairs:
        assert same(dims[a], dims[b], kept)
    assert [resolve(d).size for d in dims] == [size] * len(dims)


@given(descriptions(), st.integers(1, 23), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_pieces_make_the_whole(dims: list[Dim], at: int, seed: int) -> None:
    a, b, _ = dims
    if not 0 < at < a.size:
        return
    first, second = split(a, at, WHY)
    assert (first.size, second.size) == (at, a.size - at)
    unify(a, b, WHY)
    kept = some_kept(dims, seed)
    assert same(concatenated((first, second)), a, kept)
    assert same(a, b, kept)


@given(descriptions(), st.integers(2, 8), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_factors_make_the_whole(dims: list[Dim], size: int, seed: int) -> None:
    a, b, _ = dims
    if a.size % size:
        return
    unify(a, b, WHY)
    pieces = factor_out(a, size, WHY)
    kept = some_kept(dims, seed)
    assert same(a, b, kept)
    if pieces is not None:
        assert pieces[1].size == size
        assert same(nested(pieces), a, kept)


@given(descriptions(2))
@settings(max_examples=200, deadline=None)
def test_unifying_again_changes_nothing(dims: list[Dim]) -> None:
    a, b = dims
    done = unify(a, b, WHY)
    before = [[f.size for f in prunable(d)] for d in dims]
    if done:
        assert unify(a, b, WHY)
        assert unify(b, a, WHY)
        assert [[f.size for f in prunable(d)] for d in dims] == before


@given(descriptions(), steps, st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_counts_and_channels_tell_the_same_as_indices(
    dims: list[Dim], pairs: list[tuple[int, int]], seed: int
) -> None:
    for a, b in pairs:
        unify(dims[a], dims[b], WHY)
    kept = some_kept(dims, seed)
    counts = {f: len(k) for f, k in kept.items()}
    for dim in dims:
        remain = kept_indices(dim, kept)
        assert kept_size(dim, counts) == len(remain)
        assert np.array_equal(remain, np.unique(remain))
        for factor in set(factors(dim)):
            channel = channel_of(dim, factor)
            assert channel.shape == (dim.size,)
            whole = kept_indices(dim, {factor: kept.get(factor, np.arange(factor.size))})
            removed = np.isin(channel[channel >= 0], kept.get(factor, np.arange(factor.size)), invert=True)
            assert not np.isin(np.flatnonzero(channel >= 0)[removed], whole).any()
            assert set(channel[channel >= 0]) == set(range(factor.size))


@given(descriptions(), steps)
@settings(max_examples=200, deadline=None)
def test_blocked_factors_stay_blocked(dims: list[Dim], pairs: list[tuple[int, int]]) -> None:
    block(dims[0], WHY)
    for a, b in pairs:
        unify(dims[a], dims[b], WHY)
    assert not prunable(dims[0])


def test_a_factor_takes_any_form() -> None:
    a, b, c = Factor(2), Factor(3), Factor(4)
    for form in (Product((a, b)), Sum((b, c)), Sum((Product((a, b)), c))):
        free = Factor(form.size)
        assert unify(free, form, WHY)
        assert resolve(free) == form
    assert a.free
    assert b.free
    assert c.free


def test_sums_meet_at_their_common_cuts() -> None:
    a, b = Sum((Factor(4), Factor(8))), Sum((Factor(6), Factor(6)))
    assert unify(a, b, WHY)
    assert [f.size for f in factors(a)] == [4, 2, 6]
    assert factors(a) == factors(b)


def test_products_meet_at_common_divisors() -> None:
    a, b = Product((Factor(2), Factor(12))), Product((Factor(6), Factor(4)))
    assert unify(a, b, WHY)
    assert [f.size for f in factors(a)] == [2, 3, 4]
    assert factors(a) == factors(b)


def test_a_shuffle_added_to_its_input() -> None:
    """``(g c)`` unified with ``(c g)``: it would fail the occurs check of a type checker."""
    g, c = Factor(4), Factor(8)
    assert unify(Product((g, c)), Product((c, g)), WHY)
    kept = some_kept([g, c], 0)
    assert same(Product((g, c)), Product((c, g)), kept)


def test_a_product_that_is_also_a_sum() -> None:
    """Two equal halves, read as two rows: the same elements are removed from both halves."""
    halves, rows = Sum((Factor(8), Factor(8))), Product((Factor(2), Factor(8)))
    assert unify(halves, rows, WHY)
    assert [f.size for f in dict.fromkeys(prunable(halves))] == [8]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Factor(4), Factor(5)),
        (Product((Factor(3), Factor(4))), Product((Factor(4), Factor(3)))),
        (Sum((Factor(5), Factor(7))), Product((Factor(300), Factor(2)))),
    ],
)
def test_irreconcilable_axes_stay(a: Dim, b: Dim) -> None:
    assert not unify(a, b, WHY)
    assert not prunable(a)
    assert not prunable(b)
    assert all(f.blocks == [WHY] for d in (a, b) for f in factors(d))


def test_axes_without_elements() -> None:
    empty = Product((Factor(0), Factor(4)))
    unify(Factor(0), empty, WHY)
    unify(empty, Product((Factor(2), Factor(0))), WHY)
    assert resolve(empty).size == 0


# --- sizes that follow the input ---------------------------------------------------------------------------


@st.composite
def open_axes(draw: Draw) -> tuple[list[Extent], list[Extent]]:
    """Two ways to read the same elements: axes merged and split where that is exact for all inputs."""
    algebra = Algebra()
    n, h = algebra.symbol("n"), algebra.symbol("h")
    pool = [n, h, floor_div(h, 2) + 1, h * 2 - 1, 2, 3, 4, 6, 8, 12]
    base: list[Extent] = [draw(st.sampled_from(pool)) for _ in range(draw(st.integers(2, 4)))]  # type: ignore[call-overload, misc]
    return _read(draw, base), _read(draw, base)


def _read(draw: Draw, sizes: list[Extent]) -> list[Extent]:
    pieces: list[Extent] = []
    for size in sizes:
        whole = isinstance(size, int) and draw(st.booleans())
        divisors = [d for d in range(2, size) if size % d == 0] if whole and isinstance(size, int) else []
        major = draw(st.sampled_from(divisors)) if divisors else None
        pieces += [major, size // major] if isinstance(major, int) and isinstance(size, int) else [size]
    merged: list[Extent] = []
    for piece in pieces:
        if merged and draw(st.booleans()):
            merged[-1] = merged[-1] * piece
        else:
            merged.append(piece)
    return merged


@given(open_axes(), st.integers(0, 99))
@settings(max_examples=400, deadline=None)
def test_unified_dims_lose_the_same_elements_for_all_inputs(
    axes: tuple[list[Extent], list[Extent]], seed: int
) -> None:
    a, b = (nested(map(Factor, sizes)) for sizes in axes)
    unify(a, b, WHY)
    kept = some_kept([a, b], seed)
    for numbers in ({"n": 1, "h": 1}, {"n": 2, "h": 3}, {"n": 3, "h": 8}, {"n": 4, "h": 5}, {"n": 5, "h": 2}):
        first, second = (at_numbers(d, lambda e, n=numbers: evaluate(e, n)) for d in (a, b))  # type: ignore[misc]
        assert first.size == second.size
        assert same(first, second, kept)
        counts = {factor: len(indices) for factor, indices in kept.items()}
        for dim in (a, b):
            fraction = kept_fraction(dim, counts)
            if fraction is not None:
                assert evaluate(kept_size(dim, counts), numbers) == fraction * evaluate(dim.size, numbers)


def test_channels_merged_with_an_open_axis_stay_free() -> None:
    algebra = Algebra()
    n, h = algebra.symbol("n"), algebra.symbol("h")
    channels = Factor(64)
    merged = nested((Factor(n), channels, Factor(h)))
    assert unify(merged, nested((Factor(n), Factor(4), Factor(16 * h))), WHY)
    assert [f.size for f in factors(channels)] == [4, 16]
    assert all(f.free for f in factors(channels))


def test_sizes_that_only_happen_to_agree_are_not_one() -> None:
    h = Algebra().symbol("h")
    channels = Factor(49)
    assert not unify(nested((channels, Factor(h))), nested((Factor(7 * h), Factor(7))), WHY)
    assert not channels.free


def test_depth_is_no_limit() -> None:
    """Frames that overlap by one piece bind each piece of a long axis to the next."""
    count, width = 3000, 4
    pieces = Sum((Factor(width), Factor((count - 1) * width), Factor(width)))
    frames, piece = Factor(count), Factor(width)
    assert unify(concatenated(pieces.parts[:2]), nested((frames, piece)), WHY)
    assert unify(concatenated(pieces.parts[1:]), nested((frames, Factor(width))), WHY)
