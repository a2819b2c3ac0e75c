"""Finished results are kept though no input could be found to check them on; proofs stay small."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from helpers import Net, prune_exactly
from onnx import TensorProto, helper
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.evaluate.equivalence import examine
from onnxprune.ir import Model, check, load
from onnxprune.passes import Prune, Transform

CODE = 987654321
SECONDS, BYTES = 40, 1_000_000_000
"""Of a transform of 6 MB, on a machine that others use too."""


def unrunnable() -> onnx.ModelProto:
    """A network that only runs with a code that no drawn input guesses."""
    net = Net(seed=1)
    x, code = net.input("x", ["n", 8]), net.input("code", [1], TensorProto.INT64)
    y = net.linear(net.relu(net.linear(x, 16)), 4)
    square = net.op("Mod", net.op("Mul", code, code), net.ints(1000003))
    guard = net.op("Equal", square, net.ints(CODE * CODE % 1000003))
    place = net.op("Mul", net.op("Cast", net.op("Not", guard), to=TensorProto.INT64), net.ints(7))
    offset = net.op("Gather", net.const(np.asarray([1.5])), place)
    return net.proto(net.add(y, offset))


@pytest.fixture
def stubborn(tmp_path):
    return disk.save(unrunnable(), tmp_path / "model.onnx")


def test_a_sparse_model_that_does_not_run_is_kept(tmp_path, stubborn):
    words = ("prune", stubborn, "--reduce-channels", 0.5, "--criterion", "l2", "--round-to", 1)
    out = tmp_path / "sparse.onnx"
    said = disk.run(*words, "-o", out).refused()
    kept = tmp_path / "sparse.unverified.onnx"
    assert str(kept) in said
    assert "onnxprune verify" in said
    assert not out.exists()
    assert load(kept).metadata()
    assert disk.run(*words, "-o", out, "--unverified").code == 0
    assert load(out).metadata()
    assert disk.run(*words, "-o", out).code == 1  # nothing is overwritten
    assert (tmp_path / "sparse.unverified.2.onnx").exists()


def test_a_dense_model_without_verification_is_kept(tmp_path, stubborn):
    words = ("--reduce-channels", 0.5, "--criterion", "l2", "--round-to", 1, "--unverified")
    sparse, dense = tmp_path / "sparse.onnx", tmp_path / "dense.onnx"
    assert disk.run("prune", stubborn, *words, "-o", sparse).code == 0
    done = disk.run("transform", sparse, "-o", dense)
    kept = tmp_path / "dense.unverified.onnx"
    assert f"onnxprune verify {sparse} {kept}" in done.refused()
    assert not dense.exists()
    good = {"x": np.ones((2, 8), np.float32), "code": np.full((2, 1), CODE)}
    assert disk.run("transform", sparse, "-o", dense, "--unverified").code == 0
    assert load(dense).proto.graph.node == load(kept).proto.graph.node
    assert disk.run("transform", sparse, "-o", dense, "--json").code == 1
    del good


# --- the user's own graph


def folding_net() -> Model:
    """Sizes computed from the input, a weight made by ConstantOfShape, a vector that three nodes share."""
    net = Net(seed=2)
    x = net.sized(net.input("x", ["n", 3, "h", "w"]), [1, 3, 8, 8])
    shared = net.vector(8)
    a = net.op("Conv", x, net.weight(8, 3, 3, 3), shared, pads=[1] * 4)
    b = net.op("Conv", net.relu(a), net.weight(8, 8, 3, 3), shared, pads=[1] * 4)
    c = net.op("Conv", net.relu(b), net.weight(8, 8, 3, 3), shared, pads=[1] * 4)
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    made = net.op("ConstantOfShape", net.ints(8), value=ones)
    c = net.mul(net.relu(c), net.reshape(made, 1, 8, 1, 1))
    batch = net.op("Gather", net.op("Shape", x), net.ints(0))
    flat = net.op("Reshape", net.gap(c), net.op("Concat", batch, net.ints(8), axis=0))
    flat = net.sized(flat, ["n", 8])
    y = net.op("Gemm", flat, net.weight(4, 8), net.vector(4), transB=1)
    return net.model(net.sized(y, ["n", 4]))


def test_the_sparse_model_is_the_users_own_graph():
    given = folding_net()
    sparse = Prune(reduce_channels=0.5, criterion="l2", round_to=1)(given).model
    left = [(n.op_type, list(n.output)) for n in sparse.nodes]
    were = [(n.op_type, list(n.output)) for n in given.nodes]
    assert [n for n in were if n in left] == left
    assert {kind for kind, made in were if (kind, made) not in left} == {"ConstantOfShape", "Reshape"}
    dense = Transform()(sparse)
    assert dense.facts["equal"]
    again = Prune(reduce_channels=0.7, criterion="l2", round_to=1)(sparse).model
    assert Transform()(again).facts["equal"]


def test_changed_weights_go_back_into_the_graph_they_came_from():
    given = folding_net()
    channels = find_channels(given)
    removed = {g.name: list(range(g.size // 2)) for g in channels.groups if not g.optional}
    analysed = masked(channels, removed)
    own = in_own_graph(given, channels.model, analysed)
    assert own is not None
    assert examine(own, analysed).status == "agree"
    assert examine(given, own).status == "differ"
    assert prune_exactly(given, removed).error <= 1e-5


def test_graphs_with_names_used_twice_are_left_in_the_analysed_form():
    given = load(CASES / "same_pad.onnx")
    assert in_own_graph(given, given, given) is given


# --- budget


def super_resolution(width: int = 64, growth: int = 32, blocks: int = 4) -> onnx.ModelProto:
    """Dense residual blocks at the size of the input, pixel shuffle by four: small file, large tensors."""
    net = Net(seed=3)
    x = net.conv(net.sized(net.input("x", ["n", 3, "h", "w"]), [1, 3, 8, 8]), width)
    for _ in range(blocks):
        parts = [x]
        for _ in range(4):
            joined = net.concat(*parts) if len(parts) > 1 else x
            parts.append(net.relu(net.conv(joined, growth)))
        x = net.add(x, net.mul(net.conv(net.concat(*parts), width), net.const(0.2)))
    for _ in range(2):
        x = net.relu(net.op("DepthToSpace", net.conv(x, 4 * width), blocksize=2))
    return net.proto(net.conv(x, 3))


@pytest.mark.slow
def test_the_proof_of_a_small_file_is_small(tmp_path):
    model = disk.save(super_resolution(), tmp_path / "model.onnx")
    assert Path(model).stat().st_size > 4_000_000
    sparse, dense = tmp_path / "sparse.onnx", tmp_path / "dense.onnx"
    words = ("--reduce-channels", 0.5, "--criterion", "l2", "--round-to", 8, "-o", sparse)
    assert disk.run("prune", model, *words).code == 0
    words = [sys.executable, "-m", "onnxprune", "transform", str(sparse), "-o", str(dense)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_maxrss * 1024 < BYTES or after.ru_maxrss == before.ru_maxrss


def test_declared_sizes_beyond_the_budget_are_tried_all_the_same():
    net = Net(seed=4)
    y = net.conv(net.conv(net.input("x", [1, 3, 700, 700]), 8), 2)
    proto = net.proto(y)
    given = check(Model(proto))
    verdict = examine(given, given.copy())
    assert verdict.status == "agree"
    assert [dict(s) for s in verdict.sizes] == [{"x": (1, 3, 700, 700)}]
