"""The number of turns of a loop, counted by its conditions, beside the runtime."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest

from onnxprune.analysis.shapes import infer
from onnxprune.ir import Model, check
from onnxprune.runtime import Session

BEFORE = {
    "less": "Less (first, limit)",
    "and": "And (one, other)",
    "true": "Constant <value = bool {1}> ()",
}
"""The condition before the first turn."""
BEHIND = {
    "after": "Less (next, limit)",
    "before": "Less (state, limit)",
    "turned": "Greater (limit, next)",
    "turn": "Less (turn, limit)",
    "next_turn": "Less (later, limit)",
    "both": "And (small, on_time)",
}
"""The condition behind each turn."""


def counted(first: int, limit: str, before: str, behind: str, most: bool) -> Model:
    """A loop that counts up to a number, and stacks one number for each turn."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[s,3] x) => (int64[t] stack) {{
        size = Shape (x)
        zero = Constant <value = int64 {{0}}> ()
        unit = Constant <value = int64 {{1}}> ()
        three = Constant <value = int64 {{3}}> ()
        first = Constant <value = int64 {{{first}}}> ()
        rows = Gather (size, zero)
        limit = {limit}
        most = Add (rows, unit)
        one = Less (first, limit)
        other = Less (zero, limit)
        go = {BEFORE[before]}
        last, stack = Loop ({"most" if most else ""}, go, first) <body = turn
            (int64 turn, bool on, int64 state) => (bool onward, int64 next, int64 row) {{
            next = Add (unit, state)
            later = Add (turn, unit)
            small = Less (next, limit)
            on_time = Less (later, limit)
            onward = {BEHIND[behind]}
            row = Identity (state)
        }}>
    }}"""
    return check(Model(onnx.parser.parse_model(text)))


@pytest.mark.slow
@pytest.mark.parametrize("first", [-1, 0, 2])
@pytest.mark.parametrize("limit", ["Identity (rows)", "Identity (three)", "Sub (rows, three)"])
def test_the_runtime_takes_as_many_turns(first: int, limit: str) -> None:
    known = 0
    for before, behind, most in product(BEFORE, BEHIND, (False, True)):
        model = counted(first, limit, before, behind, most)
        if "last" not in infer(model).analysis.turns:
            continue
        known += 1
        session = Session(model.proto)
        for rows in (1, 4):
            taken = len(session.run({"x": np.zeros((rows, 3), np.float32)})["stack"])
            found = infer(model, {"x": (rows, 3)})
            assert taken == found.number(found.analysis.turns["last"]), (before, behind, most, rows)
    assert known >= 20


def test_a_counter_that_grows_by_two_is_not_counted() -> None:
    model = counted(0, "Identity (rows)", "less", "after", most=False)
    loop = next(n for n in model.proto.graph.node if n.op_type == "Loop")
    loop.attribute[0].g.node[0].input[:] = ["three", "state"]
    assert "last" not in infer(check(Model(model.proto))).analysis.turns


@pytest.mark.parametrize("place", range(5))
def test_nodes_of_other_domains_are_not_followed(place: int) -> None:
    model = counted(0, "Identity (rows)", "true", "both", most=False)
    assert "last" in infer(model).analysis.turns
    loop = next(n for n in model.proto.graph.node if n.op_type == "Loop")
    loop.attribute[0].g.node[place].domain = "plugin"
    model.proto.opset_import.add(domain="plugin", version=1)
    assert "last" not in infer(check(Model(model.proto))).analysis.turns
