"""Sizes, memory and time of a comparison."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net
from judging import QUICK, judged

from onnxprune.analysis.inputs.ladder import Trial, estimated_bytes
from onnxprune.errors import NotShownError, VerificationError
from onnxprune.evaluate.equivalence import CheckBudget, examine, runs, verify
from onnxprune.evaluate.equivalence.draws import APART, feeds_of
from onnxprune.ir import Model, check
from onnxprune.support.processors import ProcessorClock


def test_a_network_that_takes_no_input_is_given_up_within_the_budget():
    """The error of the runtime is the same at all sizes: no further sizes are searched for."""
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    agraph (float[n,c,h,w] x, float[m] z) => (float[n,c,h,w] y) <int64[1] far = {9}> {
        odd = Gather <axis = 0> (z, far)
        none = Sub (odd, odd)
        deep = Log (none)
        place = Cast <to = 7> (deep)
        row = Gather (z, place)
        y = Add (x, row)
    }
    """
    given = Model(onnx.parser.parse_model(text))
    clock = ProcessorClock()
    assert examine(given, given.copy(), budget=CheckBudget(seconds=1.0)).status == "not shown"
    assert clock.seconds < 20


PADDED = "m (float[N, 2, 8, 8] x) => (float[N, 2, h, w] y) <int64[{n}] p = {{{p}}}> {{ {nodes} }}"


def padded(places: int, *, folded: bool) -> Model:
    """A network that pads by as many numbers; where they are computed, the runtime reads them in the run."""
    numbers = ", ".join("1" * places)
    nodes = "y = Pad(x, p)" if folded else "q = Identity(p) y = Pad(x, q)"
    text = PADDED.format(n=places, p=numbers, nodes=nodes)
    return check(Model(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text)))


def test_two_networks_that_take_no_inputs_are_no_difference() -> None:
    """The runtime finds the fault of the first in its runs, that of the second when it loads it."""
    found = examine(padded(3, folded=False), padded(3, folded=True), budget=QUICK)
    assert (found.status, found.unloadable) == ("not shown", True)
    assert "takes no drawn inputs" in found.explanation
    assert "only the first model can be run" in found.explanation
    with pytest.raises(VerificationError, match="not shown") as raised:
        verify(padded(3, folded=False), padded(3, folded=True), budget=QUICK)
    assert not isinstance(raised.value, NotShownError)


def test_a_network_that_cannot_be_loaded_differs_from_one_that_runs() -> None:
    found = examine(padded(8, folded=False), padded(3, folded=True), budget=QUICK)
    assert found.status == "differ"
    assert "only the first model can be run" in found.explanation


def test_inputs_beyond_the_memory_are_drawn_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object, **__: object) -> list[dict[str, np.ndarray]]:
        drawn.append(None)
        raise MemoryError

    drawn: list[None] = []
    monkeypatch.setattr(runs, "drawn", without_memory)
    found = examine(padded(8, folded=True), padded(8, folded=True), budget=QUICK)
    assert (found.status, len(drawn)) == ("not shown", 1)
    assert "the memory does not suffice for inputs of x=" in found.explanation
    assert "--memory" in found.hint


def test_large_shapes_are_not_tried_with_a_stand_in_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-in keeps the shape of the weight, which an unknown Reshape would change."""
    net = Net(seed=3)
    x = net.input("x", [1, 3, "h", "w"])
    rows = net.op("MatMul", net.op("Flatten", net.gap(x)), net.weight(3, 108))
    weight = net.sized(net.op("Reshape", rows, net.ints(4, 3, 3, 3), domain="other"), [4, 3, 3, 3])
    proto = net.proto(net.op("Relu", net.op("Conv", x, weight, kernel_shape=[3, 3])))
    sizes: list[int] = []
    monkeypatch.setattr(runs.EquivalenceCheck, "_is_too_large", lambda _, shapes, elements: elements > 5000)
    tried = runs.EquivalenceCheck._try

    def noted(self: runs.EquivalenceCheck, trial: Trial) -> bool:
        sizes.append(trial.elements)
        return tried(self, trial)

    monkeypatch.setattr(runs.EquivalenceCheck, "_try", noted)
    assert judged(proto, proto).status == "agree"
    assert max(sizes) <= 5000


def test_no_large_shapes_are_run_once_a_small_one_has_shown_something(monkeypatch):
    net = Net()
    model = net.model(net.relu(net.input("x", ("N", "T"))))
    trials = [Trial("solved 0", {"x": (1, 4)}), Trial("small", {"x": (1, 1 << 20)})]
    monkeypatch.setattr(runs, "trial_shapes", lambda model, given: iter(trials))
    verdict = examine(model, model.copy())
    assert verdict.status == "agree"
    assert list(verdict.sizes) == [{"x": (1, 4)}]


def test_shapes_that_contradict_the_network_have_no_estimate():
    net = Net()
    x = net.add(net.input("x", ("N", "T")), net.input("y", ("N", "T")))
    proto = net.proto(x)
    assert estimated_bytes(proto, {"x": (2, 3), "y": (2, 3)}) == 24
    assert estimated_bytes(proto, {"x": (2, 3), "y": (2, 5)}) == np.inf


@pytest.mark.parametrize(("size_bytes", "expected"), [(1e9, 7), (1e5, 2)])
def test_fixed_sizes_beyond_the_budget_are_run_no_more_than_needed(size_bytes: float, expected: int) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[40000, 4] x) => (float[40000, 4] y) { a = Tanh(x) y = Mul(a, x) }
    """
    model = Model(onnx.parser.parse_model(text))
    verdict = examine(model, model, budget=CheckBudget(seconds=60.0, size_bytes=int(size_bytes)))
    assert verdict.status == "agree"
    assert verdict.runs == expected


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, [2, 2, 2]), (6.0, [2, 1, 1])])
def test_sizes_come_before_further_draws_once_half_of_the_time_is_gone(
    seconds: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        def __init__(self) -> None:
            self.seconds = seconds

    monkeypatch.setattr(runs, "ProcessorClock", Clock)
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x) => (float[N, 4] y) { a = Tanh(x) y = Mul(a, x) }
    """
    model = Model(onnx.parser.parse_model(text))
    trials = [Trial(f"solved {n}", {"x": (n, 4)}) for n in (1, 3, 5)]
    monkeypatch.setattr(runs, "trial_shapes", lambda model, given: iter(trials))
    drawn: list[str] = []
    run = runs.EquivalenceCheck._run

    def noted(self: runs.EquivalenceCheck, feed: runs.ReferenceRun) -> None:
        drawn.append(feed.where)
        run(self, feed)

    monkeypatch.setattr(runs.EquivalenceCheck, "_run", noted)
    assert examine(model, model, budget=CheckBudget(seconds=10.0)).status == "agree"
    assert [drawn.count(f"x={n}×4") for n in (1, 3, 5)] == expected
    further = sum(feeds_of(kind, trials[-1].shapes) for kind in APART)
    assert len(drawn) == sum(expected) + (further if seconds == 1.0 else 0)
