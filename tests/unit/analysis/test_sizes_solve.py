"""Sizes found for a network are such that it runs with them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from helpers import Net
from ideas import IDEAS
from onnx import TensorProto, helper
from places import CASES
from sizes_truth import draw, session

from onnxprune.analysis.sizes import infer_sizes
from onnxprune.analysis.sizes.runnable_sizes import default_sizes, largest_tensor, trial_sizes
from onnxprune.errors import ModelError
from onnxprune.ir import Model, check

REFUSED = {"nchwc", "fakequant", "trtnms", "mha_packed"}
"""Models that this runtime cannot run, or that no analysis accepts."""
CASE_FILES = [p for p in sorted(CASES.glob("*.onnx")) if p.stem not in REFUSED]
PICTURES = (
    "plain vgg_flatten focus residual feature_pyramid pixel_shuffle shufflenet_v1 vit swin "
    "space_pyramid flatten_channels_last"
).split()


def runs(proto: onnx.ModelProto) -> list[dict[str, int]]:
    """Run a model at all sizes found for it, and return them."""
    model = check(Model(proto))
    analysis = infer_sizes(model.proto)
    found = trial_sizes(analysis)
    loaded = session(model.proto)
    for numbers in found:
        assert all(c.holds(numbers) for c in analysis.conditions if c.symbols <= set(numbers))
        assert set(numbers) == set(analysis.symbols) | set(analysis.bound)
        said = [_said(loaded, model.proto, analysis, numbers, most) for most in (3, 2, 1)]
        assert None in said, (numbers, said)
    return found


def _said(loaded, proto, analysis, numbers, most):
    try:
        loaded.run(None, draw(proto, analysis, numbers, most))
    except Exception as error:
        return str(error)
    return None


@pytest.mark.parametrize("path", CASE_FILES, ids=lambda p: p.stem)
def test_files_run_with_the_sizes_found(path: Path) -> None:
    found = runs(onnx.load(path))
    assert len({tuple(sorted(n.items())) for n in found}) == len(found)


@pytest.mark.parametrize("name", PICTURES)
def test_networks_run_with_the_sides_found(name: str) -> None:
    proto = IDEAS[name].build()
    for value in proto.graph.input:
        for axis, side in ((2, "H"), (3, "W")):
            value.type.tensor_type.shape.dim[axis].dim_param = side
    found = runs(proto)
    assert len(found) > 1


def network(nodes, inputs, constants=()):
    outputs = [onnx.ValueInfoProto(name=nodes[-1].output[0])]
    given = [helper.make_tensor_value_info(n, k, s) for n, k, s in inputs]
    graph = helper.make_graph(nodes, "g", given, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def windows(size):
    """A picture cut into windows of 32, as many as there are positions."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 32, 32], [0.0] * 4 * 3 * 1024)
    rows = helper.make_tensor("p", TensorProto.FLOAT, [size, 4], [0.0] * size * 4)
    shape = helper.make_tensor("s", TensorProto.INT64, [3], [0, 4, -1])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[32, 32]),
        helper.make_node("Reshape", ["c", "s"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["t", "t"], ["d"], axis=1),
        helper.make_node("Add", ["d", "p"], ["y"]),
    ]
    return network(nodes, [("x", TensorProto.FLOAT, ["n", 3, "h", "w_"])], [weight, rows, shape])


def test_a_product_of_windows_is_solved() -> None:
    analysis = infer_sizes(windows(98))
    found = trial_sizes(analysis)
    assert {(n["h"] // 32) * (n["w_"] // 32) for n in found} == {49}
    assert len({(n["h"], n["w_"]) for n in found}) > 1
    assert default_sizes(analysis) == {"n": 1, "h": 224, "w_": 224}


def test_sizes_without_a_solution_are_refused() -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [4, 6])
    table = helper.make_tensor("t", TensorProto.FLOAT, [7, 5], [0.0] * 35)
    nodes = [helper.make_node("Add", ["x", "t"], ["a"]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    with pytest.raises(ModelError, match=r"no sizes were found .* n, m"):
        trial_sizes(infer_sizes(network(nodes, [("x", TensorProto.FLOAT, ["n", "m"])], [shape, table])))


def test_bound_symbols_stay_and_budgets_are_kept() -> None:
    proto = IDEAS["plain"].build()
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[2].dim_param = "H"
    analysis = infer_sizes(proto, bound={"N": 4})
    for numbers in trial_sizes(analysis, budget=100_000):
        assert numbers["N"] == 4
        assert largest_tensor(analysis, numbers) <= 100_000
    assert default_sizes(analysis) == {"N": 4, "H": 224}


def test_a_state_of_one_sample_fixes_the_batch() -> None:
    path = CASES / "batch_fixed_by_state.onnx"
    analysis = infer_sizes(onnx.load(path))
    assert "n" not in analysis.symbols
    assert any(equation.startswith("n = 1 ") for equation in analysis.equations)


@pytest.mark.parametrize("factor", [8192, 147, 3 * 5 * 7 * 11])
def test_the_least_batch_that_a_reshape_divides_is_found(factor: int) -> None:
    """The batch is a multiple of ``factor``: rows of that many elements of it are made."""
    net = Net()
    x = net.reshape(net.input("x", ["N", 6]), -1, factor, 6)
    analysis = infer_sizes(net.proto(x))
    numbers = trial_sizes(analysis, budget=1000)
    assert numbers[0] == {"N": factor}
    assert trial_sizes(analysis)[0] == {"N": 2 * factor}
