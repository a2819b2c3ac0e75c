"""Derived sizes of random networks against real runs at sizes that nothing else uses."""

from __future__ import annotations

import random

import pytest
from sizes_trials import tried

QUICK, MANY = 150, 2000


def test_no_size_of_a_random_network_is_wrong() -> None:
    counts, wrong = tried(range(QUICK))
    assert wrong == []
    assert counts["run"] > QUICK // 2
    assert counts["axis known"] > 10 * counts["run"]
    assert counts["axis unknown"] + counts["axis fresh"] < counts["axis known"] / 50, counts


@pytest.mark.slow
def test_no_size_of_many_random_networks_is_wrong() -> None:
    start = random.Random(2).randrange(10**6)
    counts, wrong = tried(range(start, start + MANY))
    assert wrong == [], counts
