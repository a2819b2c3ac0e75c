"""Analyses of a model are computed once for each version, and never kept for another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Net
from ideas import IDEAS
from places import ROOT

import onnxprune.analysis.groups.channels as channels_room
import onnxprune.analysis.groups.cost as cost_room
import onnxprune.analysis.shapes.shape_inference as shapes_room
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.shapes import fitting_shapes
from onnxprune.app.cli import program
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import OnnxpruneError
from onnxprune.ir import Model, analysis_scope
from onnxprune.ir.analyses import checksum
from onnxprune.passes import Ana, Pass, PassResult, Prune, Recover, Transform
from onnxprune.pipeline import Pipeline

Done = Counter[tuple[str, int]]


def network() -> Model:
    net = Net()
    x = net.cbr(net.input("image", ["N", 3, 8, 8]), 16, 3)
    x = net.relu(net.add(x, net.conv(net.cbr(x, 16, 3), 16, 3)))
    return net.model(net.head(x))


def samples(count: int = 8) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """Count the work itself, by a checksum of its argument, independently of the kept results."""
    found: Done = Counter()

    def count(module: Any, name: str, of: Callable[..., int]) -> None:
        work = getattr(module, name)

        def counted(*args: Any, **how: Any) -> Any:
            found[name, of(*args)] += 1
            return work(*args, **how)

        monkeypatch.setattr(module, name, counted)

    count(channels_room, "infer_axes", lambda model, *_: checksum(model.proto))
    count(shapes_room, "infer_sizes", checksum)
    count(cost_room, "_built", lambda channels, *_: checksum(channels.model.proto))
    parse = Plan.from_json

    def from_json(cls: type[Plan], text: str, *more: Any) -> Plan:
        found["plan", hash(text)] += 1
        return parse(text, *more)

    monkeypatch.setattr(Plan, "from_json", classmethod(from_json))
    return found


@pytest.mark.slow
def test_a_pipeline_computes_each_analysis_once_a_version(done: Done) -> None:
    ana = Ana(samples(), metric="kl", ratios=(0.5,), workers=1, exclude=["block:*"])
    results = Pipeline([ana, Prune(reduce_macs=0.3), Prune(reduce_macs=0.6), Transform()])(network())
    assert len({id(r.model) for r in results}) == 4  # one that was given, two sparse, one dense
    names = Counter(name for name, _ in done)
    assert names == {"infer_axes": 3, "infer_sizes": 3, "_built": 3, "plan": 2}
    assert max(done.values()) == 1


@pytest.mark.slow
def test_a_pipeline_computes_every_analysis_of_the_package_once_a_version() -> None:
    """Blocks included; power sums are computed once for each tensor of a version."""
    found: Done = Counter()
    ana = Ana(samples(), metric="kl", ratios=(0.5,), workers=1)
    with analysis_scope() as scope:
        scope.observers.append(lambda model, name: found.update([(name, checksum(model.proto))]))
        Pipeline([ana, Prune(reduce_macs=0.3), Prune(reduce_macs=0.6), Transform()])(network())
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "onnxprune").rglob("*.py"))
    names = {name for text in texts for name in re.findall(r'(?m)^@analysis\("([^"]+)"', text)}
    assert {name for name, _ in found} == names
    assert {key: count for key, count in found.items() if count > 1 and key[0] != "power sums"} == {}


def test_passes_called_one_by_one_share_them_too(done: Done) -> None:
    model = network()
    sparse = Prune(reduce_macs=0.3)(model)
    Transform()(Prune(reduce_macs=0.6)(sparse))
    assert max(done.values()) == 1


def test_the_command_computes_each_once_a_version(done: Done, tmp_path: Path) -> None:
    given = tmp_path / "model.onnx"
    onnx.save(network().proto, given)
    words = ["prune", str(given), "--reduce-macs", "0.4", "-o", str(tmp_path / "sparse.onnx")]
    program.main(words, standalone_mode=False)
    assert Counter(name for name, _ in done)["infer_axes"] == 2  # of the file, and of the written model
    assert max(done.values()) == 1


def test_every_edit_begins_a_new_version() -> None:
    model = network()
    node = onnx.helper.make_node("Identity", ["image"], ["copy"])
    edits: list[Callable[[], object]] = [
        lambda: model.set_metadata("note", "text"),
        lambda: model.add_constant("more", np.zeros(2, np.float32)),
        lambda: model.set_array(next(iter(model.constants)), model.array(next(iter(model.constants)))),
        lambda: model.rewire(0, list(model.nodes[0].input)),
        lambda: model.insert(0, node),
        model.edited,
    ]
    with analysis_scope():
        for edit in edits:
            before = fitting_shapes(model), find_channels(model)
            assert find_channels(model) is before[1]
            version = model.analyses.version
            edit()
            assert model.analyses.version > version
            assert find_channels(model) is not before[1]


def test_the_arguments_of_an_analysis_count() -> None:
    model = network()
    with analysis_scope():
        one = find_channels(model)
        assert find_channels(model, given={}) is one
        assert find_channels(model, allow_inexact=False) is one
        assert find_channels(model, allow_inexact=True) is not one
        assert find_channels(model, given={"image": (2, 3, 8, 8)}) is not one


def test_a_message_edited_between_two_passes_is_analysed_anew() -> None:
    model = network()
    first = Prune(reduce_channels=0.5, round_to=1)(model)
    weight = next(t for t in model.proto.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight)[::-1].copy()
    weight.raw_data = values.tobytes()
    again = Prune(reduce_channels=0.5, round_to=1)(model)
    fresh = Model(onnx.ModelProto.FromString(model.proto.SerializeToString()))
    assert again.model.proto == Prune(reduce_channels=0.5, round_to=1)(fresh).model.proto
    assert again.model.proto != first.model.proto


def test_nothing_is_kept_outside_passes() -> None:
    model = network()
    assert find_channels(model) is not find_channels(model)


def test_a_copy_has_no_results() -> None:
    model = network()
    with analysis_scope():
        assert find_channels(model.copy()) is not find_channels(model)


def test_verification_finds_an_edit_within_a_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "verified", True)
    model = network()
    with analysis_scope():
        find_channels(model)
        model.proto.graph.node[0].name = "other"
        with pytest.raises(AssertionError, match="edited"):
            find_channels(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(IDEAS)[::2])
def test_no_pass_uses_a_result_of_another_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "verified", True)
    model = IDEAS[name].build()
    steps = [Prune(reduce_channels=0.3, round_to=1), Transform(unverified=True)]
    with suppress(OnnxpruneError):  # it may have nothing to prune
        Pipeline(steps)(Model(model) if isinstance(model, onnx.ModelProto) else model)


class Copied(Pass):
    """Returns a copy."""

    name = "copied"

    def run(self, given: PassResult) -> PassResult:
        return PassResult(given.model.copy(), True)


class Preserving(Copied):
    """Says that its copy carries the same plan."""

    preserves = frozenset({"plan"})


@pytest.mark.parametrize(("step", "parsed"), [(Copied, 1), (Preserving, 0)])
def test_preserved_analyses_are_not_computed_again(step: type[Pass], parsed: int, done: Done) -> None:
    sparse = Prune(reduce_macs=0.3)(network())
    plan = stored_plan(sparse.model)
    with analysis_scope():
        stored_plan(sparse.model)
        done.clear()
        kept = stored_plan(step()(sparse).model)
    assert kept == plan
    assert Counter(name for name, _ in done)["plan"] == parsed


def test_recovery_preserves_the_plan(done: Done) -> None:
    """Declarations are true: the plan read again is the one that was taken over."""
    model = network()
    sparse = Prune(reduce_macs=0.3)(model)
    with analysis_scope():
        repaired = Recover(model, data=samples())(sparse)
        taken_over = stored_plan(repaired.model)
    assert repaired.model is not sparse.model
    assert Plan.from_json(repaired.model.metadata()[PLAN_KEY]) == taken_over
