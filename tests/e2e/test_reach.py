"""The corpus of other people's networks: never a crash, always exact, and the table of it is true."""

from __future__ import annotations

from functools import cache

import corpus
import pytest

BACKEND = [case for case in corpus.cases() if not case.trained]
SMALL = [case for case in BACKEND if case.expected]
LARGE = [case for case in corpus.cases() if not case.expected]
UNKNOWN_TO_THE_RUNTIME = ("strnorm", "gradient", "_multiparam")


@cache
def rows() -> dict[str, str]:
    """Return the rows of the table by the name of the network, without time and memory."""
    return {name: f"| {' | '.join(cells[: corpus.CELLS])} |" for name, cells in corpus.rows().items()}


def named(case: corpus.Case) -> str:
    return case.name


def check(case: corpus.Case) -> None:
    found = corpus.reach(case)
    assert found.error <= found.allowed
    assert rows()[case.name] == found.row(case.name)


def test_the_corpus_is_whole() -> None:
    assert len(SMALL) > 130
    assert {case.name for case in BACKEND} <= set(rows())


@pytest.mark.parametrize("case", SMALL, ids=named)
def test_expected_outputs_are_reproduced(case: corpus.Case) -> None:
    reproduced = corpus.reproduces(case)
    assert reproduced or (reproduced is None and any(n in case.name for n in UNKNOWN_TO_THE_RUNTIME))


@pytest.mark.parametrize("case", SMALL, ids=named)
def test_half_of_a_small_network(case: corpus.Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("case", LARGE, ids=named)
def test_half_of_a_large_network(case: corpus.Case) -> None:
    check(case)


@pytest.mark.real
def test_all_trained_networks_are_there() -> None:
    names = {case.name for case in LARGE if case.trained}
    assert names == {name for name in rows() if name.partition("/")[0] in corpus.TRAINED}
    assert len(names) == 11, "install them as the Makefile does"
