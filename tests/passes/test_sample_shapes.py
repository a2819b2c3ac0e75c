"""Work is counted at the sizes of the samples, which bind nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.app.cli import program
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import ModelError
from onnxprune.evaluate.data import DataSpec, shapes_of_samples
from onnxprune.ir import SAMPLES_KEY, Model, sample_shapes
from onnxprune.passes import Ana, Prune, Transform
from onnxprune.runtime import Session

SMALL = {"x": np.random.default_rng(0).normal(size=(6, 3, 12, 20)).astype(np.float32)}


def network(height: int | str = "h", width: int | str = "w") -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["n", 3, height, width]), 16))
    return net.model(net.gemm(net.op("Flatten", net.gap(net.relu(net.conv(x, 24)))), 5))


def macs(model: Model, **sizes: int) -> float:
    found = replace(model, sizes={"x": (1, 3, sizes["h"], sizes["w"])}) if sizes else model
    return float(cost_of(find_channels(found)).macs.value())


def shapes(data: DataSpec, *sizes: int) -> dict[str, tuple[int, ...]]:
    model = network(*sizes)
    return shapes_of_samples(data, model.inputs, model.outputs)


def run(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(program, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_work_is_counted_at_the_sizes_of_the_samples() -> None:
    model = network()
    sparse = Prune(reduce_macs=0.3, data=SMALL)(model)
    assert sparse.facts["macs_before"] == macs(model, h=12, w=20) != macs(model)
    assert stored_plan(sparse.model).input_shapes == {}  # type: ignore[union-attr]
    dense = Transform()(sparse.model)
    assert dense.facts["macs_before"] == macs(model, h=12, w=20)
    assert SAMPLES_KEY not in dense.model.metadata()
    feed = {"x": np.ones((2, 3, 17, 5), np.float32)}  # no axis is bound
    expected, found = (Session(m.proto).run(feed) for m in (sparse.model, dense.model))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_all_rounds_are_counted_at_the_sizes_of_the_first() -> None:
    model = network()
    first = Prune(reduce_macs=0.2, data=SMALL, round_to=1)(model)
    second = Prune(reduce_macs=0.4, round_to=1)(first.model)
    assert second.facts["macs_before"] == macs(model, h=12, w=20)
    assert sample_shapes(second.model) == {"x": (-1, 3, 12, 20)}
    without = Prune(reduce_macs=0.2, round_to=1)(model)
    again = Prune(reduce_macs=0.4, round_to=1, data=SMALL)(without.model)
    assert again.facts["macs_before"] == macs(model)


def test_given_sizes_decide_over_those_of_samples() -> None:
    sparse = Prune(reduce_macs=0.3, data=SMALL, dims={"h": 30})(network())
    assert sparse.facts["macs_before"] == macs(network(), h=30, w=20)


def test_an_analysis_and_a_plan_of_it_count_alike() -> None:
    model = network()
    measured = Ana(data=SMALL, ratios=(0.5,))(model)
    sparse = Prune(reduce_macs=0.3)(measured)
    assert sparse.facts["macs_before"] == macs(model, h=12, w=20)


@pytest.mark.parametrize("shape", [(6, 4, 12, 20), (6, 3, 20)])
def test_samples_that_do_not_fit_the_model_have_no_shapes(shape: tuple[int, ...]) -> None:
    assert shapes({"x": np.ones(shape, np.float32)}) == {}


def test_sizes_that_the_network_does_not_run_with_are_left_out() -> None:
    net = Net()
    x = net.op("Conv", net.input("x", ["n", 3, "h", "w"]), net.weight(8, 3, 7, 7))
    model = net.model(net.conv(x, 4))
    assert macs(replace(model, sample_shapes={"x": (-1, 3, 4, 4)})) == macs(model)
    assert macs(replace(model, sample_shapes={"x": (-1, 3, 9, 9)})) != macs(model)


def test_nothing_is_read_where_only_the_batch_is_open() -> None:
    def broken() -> Any:
        raise AssertionError

    assert shapes(broken, 8, 8) == {}


def test_models_side_by_side_are_counted_at_one_size(tmp_path: Path) -> None:
    model, data = network(), tmp_path / "data.npz"
    np.savez(data, **SMALL)
    files = [str(tmp_path / f"{name}.onnx") for name in ("model", "sparse")]
    onnx.save(model.proto, files[0])
    onnx.save(Prune(reduce_macs=0.3, data=SMALL)(model).model.proto, files[1])
    for more in ([], ["--data", str(data)]):
        rows = run("bench", *files, "--runs", "1", *more)["models"]
        assert [row["macs"] for row in rows] == [macs(model, h=12, w=20)] * 2
    assert run("inspect", files[1])["input_shapes"]["x"][2:] == [12, 20]


def test_a_damaged_note_is_refused() -> None:
    model = network()
    model.set_metadata(SAMPLES_KEY, '{"x": 3}')
    with pytest.raises(ModelError, match="damaged"):
        find_channels(model)
