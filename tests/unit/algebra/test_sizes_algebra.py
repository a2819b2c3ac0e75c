"""The algebra of sizes against numbers, and the forms it must find equal."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import random
import weakref
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.algebra.sizes import algebra as a
from onnxprune.algebra.sizes.algebra import Value

H, W, N = a.symbol("h"), a.symbol("w"), a.symbol("n")
PAST = a.symbol("past", 0)


def conv(size: Value, kernel: int, stride: int, pads: int) -> Value:
    return a.floor_div(size + pads - kernel, stride) + 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PAST + H, H + PAST),
        ((H + 1) * (H - 1), H * H - 1),
        (a.floor_div(a.floor_div(H, 2), 3), a.floor_div(H, 6)),
        (conv(conv(conv(H, 3, 2, 2), 3, 2, 2), 3, 2, 2), a.floor_div(H + 7, 8)),
        (a.ceil_div(H, 32), a.floor_div(H + 31, 32)),
        (a.floor_div(-H, 2), -a.floor_div(H + 1, 2)),
        (a.floor_div(4 * H + 3, 8), a.floor_div(H, 2)),
        (a.floor_div(N * H * 6, N * 3), 2 * H),
        (a.floor_div(N * H + W, N), H + a.floor_div(W, N)),
        (a.maximum(a.maximum(H, W) + 1, N), a.maximum(N, H + 1, W + 1)),
        (a.minimum(H, H + PAST), H),
        (a.choose(a.less(H, 1), W, N), N),
        (a.choose(a.equals(H, W), N, N), N),
        (a.less(PAST, PAST + H), 1),
        (a.equals(2 * H, 2 * W), a.equals(2 * W, 2 * H)),
        (a.stretched(512, H + 1), 512),
        (a.stretched(a.minimum(H, 512), H), H),
        (a.floor_div(a.rounded(H, 32, 3), 1), a.floor_div(H, 3)),
        (a.ceil_div(a.rounded(H, 32, 12), 1) * 12, a.ceil_div(H, 12) * 12),
        (a.rounded(H * 3, 32, 2), H * Fraction(3, 2)),
    ],
)
def test_equal_for_all_sizes_is_the_same_object(one: Value, other: Value) -> None:
    assert one is other or (isinstance(one, int) and one == other)


@pytest.mark.parametrize(
    ("size", "written"),
    [
        (PAST + H, "h + past"),
        (a.floor_div(H - 2, 32) + 1, "(h + 30)//32"),
        (a.floor_div(H, 3) * 2 - W + 1, "2*(h//3) + 1 - w"),
        (32 - H, "32 - h"),
        (a.maximum(H - 2, 0), "max(0, h - 2)"),
        (-a.floor_div(H, 2), "-(h//2)"),
        (H * H * 2, "2*h**2"),
        (a.less(H, W + 1), "(h < w + 1)"),
        (a.equals(H, W), "(w == h)"),
        (H * Fraction(3, 8), "3*h/8"),
        (a.floor_div(H, N), "(h//n)"),
        (a.trunc_div(H - 5, 2), "trunc(h - 5, 2)"),
        (a.rounded(H, 32, N), "float32(h/n)"),
        (a.stretched(H, N), "broadcast(h, n)"),
    ],
)
def test_sizes_are_written_as_people_do(size: Value, written: str) -> None:
    assert str(size) == written


def test_constant_expressions_are_plain_numbers() -> None:
    for value in (H - H, (H + 3) - H, 0 * H, H * Fraction(1, 2) - H * Fraction(1, 2) + 4, 3 + -H + H):
        assert isinstance(value, int)
    assert (H + 2) - (H - np.int64(3)) == 5
    assert H != 3
    assert H + 0 is H


def test_size_knows_its_symbols_and_limits() -> None:
    size = a.floor_div(H + PAST, 2) + 3
    assert size.symbols == {"h", "past"}
    assert (size.lower, size.upper) == (3, None)
    assert (7 - H).upper == 6
    top = a.symbol("top", 0, 5)
    assert (top * 2 + 1).lower == 1
    assert (top * 2 + 1).upper == 11


def test_divisions_are_exact_only_where_proved() -> None:
    assert a.exact_quotient(6 * H * N, 3 * N) == 2 * H
    assert a.exact_quotient(H * H - W * W, H + W) is H - W
    assert a.exact_quotient(H, 2) is None
    assert a.exact_quotient(12, 4) == 3
    assert a.exact_quotient(12, 5) is None
    assert a.exact_quotient(3, 0) is None
    assert a.common_divisor(6 * H * N, 4 * H) is 2 * H
    assert a.common_divisor(6 * H * N, H) is H
    assert a.common_divisor(12, 8 * H) == 4
    assert a.common_divisor(H + 1, W) == 1
    assert a.common_divisor((H + 1) * W, H + 1) is H + 1


def test_expressions_that_are_never_negative_are_proved() -> None:
    never = [
        H - a.floor_div(H, 2),
        N * H - N,
        H * W - H - W + 1,
        a.maximum(H, W) - W,
        H - a.minimum(H, W),
        a.choose(a.equals(H, W), H, N) - 1,
        N * H - N * a.floor_div(H, 2),
        H - a.floor_div(H, N),
    ]
    for size in never:
        assert a.is_nonnegative(size), size
    for size in (H - 2, H - W, PAST - 1, a.minimum(H, W) - 2, H * W - 3 * H):
        assert not a.is_nonnegative(size), size


def test_monomials_with_a_known_divisor_divide_exactly() -> None:
    table = a.Algebra()
    n = table.symbol("n")
    table.divisors[n.terms[0][0]] = 8
    eighth = a.floor_div(n, 8)
    assert str(eighth) == "n/8"
    assert eighth * 8 is n
    assert a.floor_div(n, 4) is 2 * eighth
    assert a.evaluate(eighth, {"n": 24}) == 3
    with pytest.raises(ValueError, match="no whole number"):
        a.evaluate(eighth, {"n": 9})


def test_sizes_of_two_analyses_do_not_mix() -> None:
    one, other = a.Algebra().symbol("h"), a.Algebra().symbol("h")
    assert one != other
    with pytest.raises(ValueError, match="two analyses"):
        one + other


def test_tables_are_freed_with_their_last_size() -> None:
    table = a.Algebra()
    size = a.floor_div(table.symbol("h"), 2)
    kept = weakref.ref(table)
    del table
    gc.collect()
    assert kept() is not None
    del size
    gc.collect()
    assert kept() is None


def test_sizes_survive_pickle_and_copy() -> None:
    size = a.maximum(a.floor_div(H - 1, 2) * W, 3)
    assert copy.deepcopy([size])[0] is size
    again, symbol = pickle.loads(pickle.dumps([size, H]))
    assert str(again) == str(size)
    assert a.maximum(a.floor_div(symbol - 1, 2) * again.algebra.symbol("w"), 3) is again


def test_substitution_simplifies() -> None:
    size = a.maximum(a.floor_div(H, 2) * W, N)
    assert a.substitute(size, {"h": 8, "n": 2}) is a.maximum(4 * W, 2)
    assert a.substitute(size, {"h": 9, "w": N + 1}) is 4 * N + 4


def test_float32_products_round_as_the_runtime_does() -> None:
    tenth = Fraction(float(np.float32(0.7)))
    size = a.floor_div(a.rounded(H * tenth, 32), 1)
    for number in range(1, 200):
        assert a.evaluate(size, {"h": number}) == math.floor(np.float32(number) * np.float32(0.7))


BINARY = ("+ - * // // max min == < trunc stretched choose round substitute").split()
ROUND = 14


def _exact(step: str, p: int | Fraction, q: int | Fraction) -> int | Fraction | None:
    """Compute a step with numbers; ``None`` where it is not defined."""
    if step in ("//", "trunc", "round") and q == 0:
        return None
    if step == "stretched" and not (p == q or p == 1 or q == 1):
        return None
    return {
        "+": lambda: p + q,
        "-": lambda: p - q,
        "*": lambda: p * q,
        "//": lambda: math.floor(Fraction(p) / q),
        "trunc": lambda: math.trunc(Fraction(p) / q),
        "max": lambda: max(p, q),
        "min": lambda: min(p, q),
        "==": lambda: int(p == q),
        "<": lambda: int(p < q),
        "stretched": lambda: q if p == 1 else p,
        "round": lambda: Fraction(float(np.float32(float(Fraction(p) / q)))),
    }[step]()


STEPS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "//": a.floor_div,
    "trunc": a.trunc_div,
    "max": a.maximum,
    "min": a.minimum,
    "==": a.equals,
    "<": a.less,
    "stretched": a.stretched,
    "round": lambda x, y: a.rounded(x, 32, y),
}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**40))
def test_expressions_are_right_at_all_numbers(seed: int) -> None:
    """Random chains of all functions, and their bounds and proofs, against plain arithmetic."""
    rng = random.Random(seed)
    table = a.Algebra()
    symbols = [table.symbol(n, 0) for n in "abc"] + [table.symbol("u", None)]
    choices = {"a": (0, 1, 2, 3, 7), "b": (0, 1, 2, 5, 8), "c": (1, 1, 2, 6, 9), "u": (-3, -1, 0, 2, 5)}
    places = [{n: rng.choice(c) for n, c in choices.items()} for _ in range(6)]
    known: list[tuple[Value, list[int | Fraction]]] = [
        (s, [p[n] for p in places]) for s, n in zip(symbols, choices, strict=True)
    ]
    known += [(k, [k] * len(places)) for k in (0, 1, 2, 3, -1, 4, 8)]
    for _ in range(ROUND):
        found = _one_step(rng, known, places)
        if found is not None and (not isinstance(found[0], a.Size) or found[0].weight < 200):
            _check(found[0], found[1], places)
            known.append(found)


def _one_step(
    rng: random.Random, known: list[tuple[Value, list[int | Fraction]]], places: list[dict[str, int]]
) -> tuple[Value, list[int | Fraction]] | None:
    step = rng.choice(BINARY)
    (x, p), (y, q) = rng.choice(known), rng.choice(known)
    if isinstance(x, a.Size) and isinstance(y, a.Size) and len(x.terms) * len(y.terms) > 12:
        return None
    if step == "substitute":
        name = rng.choice("abcu")
        moved = a.substitute(x, {name: 3})
        return moved, [a.number_of(x, {**place, name: 3}) for place in places]
    if step == "choose":
        condition, truths = rng.choice(known)
        boolean = isinstance(condition, a.Size) and condition.integral and condition.bounds == (0, 1)
        if not boolean:
            return None
        return a.choose(condition, x, y), [b if t else c for t, b, c in zip(truths, p, q, strict=True)]
    exact = [_exact(step, b, c) for b, c in zip(p, q, strict=True)]
    if None in exact or (step == "stretched" and min(*p, *q) < 0):
        return None
    if step in ("//", "trunc", "round") and y == 0:
        return None
    if step == "round" and not all(isinstance(k, int) for k in (*p, *q)):
        return None  # a fraction has been rounded before
    if not a.is_integral(x) and step == "//":
        return None
    return STEPS[step](x, y), [e for e in exact if e is not None]


def _check(value: Value, exact: list[int | Fraction], places: list[dict[str, int]]) -> None:
    assert [a.number_of(value, place) for place in places] == exact, value
    low, high = value.bounds if isinstance(value, a.Size) else (value, value)
    assert all((low is None or e >= low) and (high is None or e <= high) for e in exact), value
    assert not a.is_nonnegative(value) or min(exact) >= 0, value
