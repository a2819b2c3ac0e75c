"""Text of compiled libraries stays out of the standard output of a command."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from onnxprune.search import choices, integer_program
from onnxprune.support.native_output import discard_native_output

printf = ctypes.CDLL(None).printf


def test_text_of_the_block_is_discarded_and_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    printf(b"buffered by C before\n")
    with discard_native_output():
        printf(b"of a library\n")
    print("after")
    printf(b"of C, after\n")
    ctypes.CDLL(None).fflush(None)
    written = capfd.readouterr().out
    assert set(written.split("\n")) == {"before", "buffered by C before", "after", "of C, after", ""}


def test_an_error_restores_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), discard_native_output(), discard_native_output():
        raise ZeroDivisionError
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_a_process_without_standard_output() -> None:
    code = """
        import os, sys
        os.close(1)
        from onnxprune.support.native_output import discard_native_output
        with discard_native_output():
            sys.stderr.write("done")
        """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert ran.stderr == "done"


def program() -> integer_program._Program:
    """Return one of the two programs, of 6,000 random ones, for which HiGHS (scipy 1.17) prints a line."""
    random = np.random.default_rng(68)
    places, options = int(random.integers(3, 12)), int(random.integers(2, 6))
    losses = random.random((places, options)) ** 4
    costs = random.random((2, places, options)) * 10.0 ** random.integers(-9, 3, (2, places, 1))
    flat = costs.reshape(2, -1)
    room = flat.sum(1) / options * random.uniform(0.3, 1)
    starts = list(range(0, places * options + 1, options))
    links = [dict.fromkeys(range(a, b), 1.0) for a, b in itertools.pairwise(starts)]
    return integer_program._Program(starts, losses.ravel(), flat, room, links, [1.0] * places)


def test_the_solver_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert program().solve() is not None
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


def test_every_call_of_the_solver_lies_in_a_block(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called = set()

    def printing(name: str) -> Callable[..., Any]:
        solve = getattr(scipy.optimize, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            printf(b"text of the solver\n")
            called.add((name, "method" in options))
            return solve(*args, **options)

        return wrapped

    for name in ("milp", "linprog"):
        monkeypatch.setattr(scipy.optimize, name, printing(name))
    monkeypatch.setattr(choices, "_INTEGRAL", -1.0)
    random = np.random.default_rng(0)
    offers = [choices.Offer(random.random((4, 2)), random.random(4)) for _ in range(20)]
    choices.best_choices(offers, [8.0, 8.0])
    program().solve()
    ctypes.CDLL(None).fflush(None)
    assert called == {("milp", False), ("linprog", False), ("linprog", True)}
    assert capfd.readouterr().out == ""
