"""Row numbers of tables that are fed one by one, within a budget of time."""

from __future__ import annotations

import math
import time

import numpy as np
from onnx import numpy_helper, parser

from onnxprune.analysis.inputs.ladder import Shapes
from onnxprune.evaluate.equivalence.coverage import covering
from onnxprune.evaluate.equivalence.tensor_comparison import ReferenceRun
from onnxprune.ir import Model, check
from onnxprune.runtime import Session
from onnxprune.support.processors import ProcessorClock

ROWS = 90


def fed_within(
    seconds: float, most: int = 1 << 20, sizes: list[int] | None = None
) -> tuple[set[int], list[str]]:
    """Return the rows fed to a table within some time, `most` at once, and the sentences about it."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,5] ids) => (float[a,b,c] y) { y = Gather(table, ids) }"""
    proto = parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((ROWS, 2), np.float32), "table"))
    model, fed = check(Model(proto)), set()

    def run(one: ReferenceRun) -> bool:
        fed.update(one.feed["ids"].ravel().tolist())
        if sizes is not None:
            sizes.append(one.feed["ids"].size)
        return True

    def fits(shapes: Shapes) -> bool:
        return math.prod(shapes["ids"]) <= most

    specs = Session(model.proto).inputs
    said = covering(model, specs, {"ids": (2, 5)}, {"ids": ROWS}, run, seconds, fits)
    return fed, said


def test_all_rows_are_fed_while_there_is_time() -> None:
    fed, said = fed_within(60)
    assert fed == set(range(ROWS))
    assert not said


def test_some_rows_are_fed_when_the_time_is_over() -> None:
    fed, said = fed_within(-1)
    assert 0 < len(fed) < ROWS
    assert said == [f"{len(fed)} of the {ROWS} rows that 'ids' may pick were fed"]


def test_a_run_is_no_larger_than_allowed() -> None:
    for most, expected in ((1 << 20, 20), (19, 10), (1, 10)):
        sizes: list[int] = []
        fed, _ = fed_within(60, most, sizes)
        assert set(sizes) == {expected}
        assert fed == set(range(ROWS))


def test_waiting_is_not_charged() -> None:
    watch = ProcessorClock()
    time.sleep(0.3)
    assert watch.seconds < 0.2
