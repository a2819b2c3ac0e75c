"""Small files that describe long lists of numbers: nothing writes them down to find a shape."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.analysis.inputs.ladder import estimated_bytes
from onnxprune.certify.reading.inference import inferred_sizes

HEAD = """<ir_version: 9, opset_import: ["" : 18]> g (float[n, 4] x) => (float y) {
    a = MatMul (x, w) b = Relu (a) e = MatMul (b, v) """
RANGE = (
    HEAD
    + "k = Range (zero, many, one) l = Cast <to = 1> (k) m = ReduceSum <keepdims = 0> (l) y = Add (e, m) }"
)
DOUBLED = HEAD + "c0 = Shape (w) " + "".join(f"c{k + 1} = Concat <axis = 0> (c{k}, c{k}) " for k in range(40))
DOUBLED += "l = Cast <to = 1> (c40) m = ReduceSum <keepdims = 0> (l) y = Add (e, m) }"
BYTES = 1 << 30


def network(text: str) -> onnx.ModelProto:
    """Return a small network that adds the sum of a list of 2⁴⁰ numbers."""
    proto, random = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, values in {
        "w": random.normal(size=(4, 8)).astype(np.float32),
        "v": random.normal(size=(8, 3)).astype(np.float32),
        "zero": np.asarray(0),
        "many": np.asarray(1 << 40),
        "one": np.asarray(1),
    }.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


@pytest.fixture
def little_memory() -> object:
    """Allow this process little more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize:"))
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
@pytest.mark.parametrize("text", [RANGE, DOUBLED], ids=["range", "doubled"])
def test_lists_that_are_only_described(tmp_path: Path, little_memory: object, text: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    proto = network(text)
    assert disk.run("inspect", disk.save(proto, tmp_path / "model.onnx"), "--json").code == 0
    estimated_bytes(proto, {"x": (2, 4)})
    assert inferred_sizes(proto)["a"][1] == 8
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    assert grown < BYTES / 4, f"{grown / 1e6:.0f} MB"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
@pytest.mark.parametrize("command", ["finetune", "ana", "bench", "prune"])
@pytest.mark.parametrize("text", [RANGE, DOUBLED], ids=["range", "doubled"])
def test_commands_that_run_the_model_refuse_long_lists_at_once(
    tmp_path: Path, little_memory: object, text: str, command: str
) -> None:
    random = np.random.default_rng(0)
    labelled = {"x": random.normal(size=(8, 4)).astype(np.float32), "labels": np.zeros(8, np.int64)}
    np.savez(tmp_path / "data.npz", **labelled)
    data, out = ["--data", str(tmp_path / "data.npz")], ["-o", str(tmp_path / "out")]
    more = {"finetune": [*data, "--loss", "mse", *out], "ana": [*data, *out], "bench": []}
    more["prune"] = ["--reduce-params", "0.2", "-o", str(tmp_path / "out.onnx")]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = disk.save(network(text), tmp_path / "model.onnx")
    ended = disk.run(command, file, *more[command])
    assert ended.code == 1
    node = "(Range)" if text == RANGE else "(Concat)"
    assert node in ended.err
    assert "TB of memory" in ended.err
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    assert grown < BYTES / 4, f"{grown / 1e6:.0f} MB"
