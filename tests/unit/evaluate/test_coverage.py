"""Row numbers of tables that are fed one by one, within a budget of time."""

from __future__ import annotations

import time

import numpy as np
from onnx import numpy_helper, parser

from onnxprune.evaluate.equivalence.coverage import covering
from onnxprune.evaluate.equivalence.tensor_comparison import ReferenceRun
from onnxprune.ir import Model, check
from onnxprune.runtime import Session
from onnxprune.support.processors import ProcessorClock

ROWS = 90


def fed_within(seconds: float) -> tuple[set[int], list[str]]:
    """Return the rows that are fed to a table within some time, and the sentences about it."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[N,5] ids) => (float[a,b,c] y) { y = Gather(table, ids) }"""
    proto = parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((ROWS, 2), np.float32), "table"))
    model, fed = check(Model(proto)), set()

    def run(one: ReferenceRun) -> bool:
        fed.update(one.feed["ids"].ravel().tolist())
        return True

    said = covering(model, Session(model.proto).inputs, {"ids": (2, 5)}, {"ids": ROWS}, run, seconds)
    return fed, said


def test_all_rows_are_fed_while_there_is_time() -> None:
    fed, said = fed_within(60)
    assert fed == set(range(ROWS))
    assert not said


def test_some_rows_are_fed_when_the_time_is_over() -> None:
    fed, said = fed_within(-1)
    assert 0 < len(fed) < ROWS
    assert said == [f"{len(fed)} of the {ROWS} rows that 'ids' may pick were fed"]


def test_waiting_is_not_charged() -> None:
    watch = ProcessorClock()
    time.sleep(0.3)
    assert watch.seconds < 0.2
