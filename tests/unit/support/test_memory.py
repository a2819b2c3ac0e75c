"""A small file is no large bill: sizes are known before they are allocated, and compared with a budget."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune.errors import DataError, ModelError, UsageError
from onnxprune.evaluate.data import open_data
from onnxprune.ir import attributes, load, skeleton
from onnxprune.ir.declarations import refusal
from onnxprune.runtime import TensorSpec
from onnxprune.support.memory import budget, in_words, limited, need, parsed

PRUNE = ("--reduce-channels", 0.5, "--criterion", "l2", "--round-to", 1)
G = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 * G), ("512m", 512 << 20), ("1.5GB", 3 * G // 2), ("7", 7), ("1K", 1024)]
)
def test_amounts(text, size):
    assert parsed(text) == size


@pytest.mark.parametrize("text", ["", "G", "x", "-1G", "0", "nan", "inf", "1e400", "99999999T"])
def test_amounts_that_are_none(text):
    with pytest.raises(UsageError, match="no amount of memory"):
        parsed(text)


def test_a_budget_is_for_a_block():
    before = budget()
    assert before > 0
    with limited(G):
        assert budget() == G
        need(G, "this")
        with pytest.raises(ModelError, match=r"this needs 1\.5 GB of memory, and 1 GB are allowed"):
            need(3 * G // 2, "this")
        with limited(None):
            assert budget() == G
    assert budget() == before
    assert in_words(3) == "3 bytes"


def test_a_wrong_amount_is_wrong_usage(tmp_path):
    disk.run("inspect", tmp_path / "model.onnx", "--memory", "much").refused(2)


# --- large tensors from small files


def grown(tmp_path, size, name="model.onnx"):
    """A network with a matrix of ones that takes a few bytes in the file."""
    proto = disk.network()
    lines = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] before) => (float[N, 4] logits)
        <int64[2] shape = {{{size}, {size}}}> {{
            ones = ConstantOfShape (shape)
            low = Trilu (ones, before)
            most = ReduceMax <keepdims = 0> (ones)
            logits = Add (before, most)
        }}""")
    del lines.graph.node[1]
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.extend(lines.graph.node)
    proto.graph.initializer.extend(lines.graph.initializer)
    return disk.save(proto, tmp_path / name)


def test_a_matrix_that_the_file_only_describes_is_not_written_out(tmp_path):
    path, sparse, dense = grown(tmp_path, 2048), tmp_path / "s.onnx", tmp_path / "d.onnx"
    assert disk.run("prune", path, *PRUNE, "-o", sparse).code == 0
    assert disk.run("transform", sparse, "-o", dense).code == 0
    small = Path(path).stat().st_size
    assert Path(sparse).stat().st_size < small + 2000
    assert Path(dense).stat().st_size < small


def test_a_sparse_initializer_is_written_sparsely_again(tmp_path):
    proto = disk.network()
    place = next(k for k, t in enumerate(proto.graph.initializer) if t.name == "w2")
    values = numpy_helper.to_array(proto.graph.initializer[place]).ravel()
    chosen = np.arange(0, values.size, 50)
    del proto.graph.initializer[place]
    proto.graph.sparse_initializer.add(
        dims=[24, 16, 3, 3],
        values=numpy_helper.from_array(values[chosen], "w2"),
        indices=numpy_helper.from_array(chosen, ""),
    )
    path, sparse = disk.save(proto, tmp_path / "model.onnx"), tmp_path / "s.onnx"
    assert disk.run("prune", path, *PRUNE, "-o", sparse).code == 0
    written = onnx.load(sparse)
    assert [t.values.name for t in written.graph.sparse_initializer] == ["w2"]
    kept = load(sparse).array("w2").ravel()
    assert set(np.flatnonzero(kept)) <= set(chosen.tolist())
    assert disk.run("transform", sparse, "-o", tmp_path / "d.onnx").code == 0


def test_tensors_larger_than_memory_are_not_made(tmp_path):
    said = disk.run("inspect", grown(tmp_path, 500_000)).refused(1)
    assert "needs 931 GB" in said
    assert "--memory 932G" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there processes can be kept to it")
def test_a_run_is_kept_to_the_memory_allowed(tmp_path):
    """A padding of thousands of pixels: the activations need 14 GB."""
    proto = disk.network()
    pads = next(a for a in proto.graph.node[0].attribute if a.name == "pads")
    pads.ints[:] = [6000] * 4
    path = disk.save(proto, tmp_path / "model.onnx")
    command = [sys.executable, "-m", "onnxprune", "prune", path, "--memory", "1G"]
    command += [*map(str, PRUNE), "-o", str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "memory" in disk.Outcome(done.returncode, done.stdout, done.stderr).refused(1)


# --- samples


SPECS = ((TensorSpec("x", np.dtype(np.float32), ("N", 1024)),), ())


def bomb(path, rows):
    """An archive whose zeros take a thousandth of their size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 1024)}
        np.lib.format.write_array_header_1_0(stream, header)
        piece = bytes(1 << 22)
        for _ in range(rows * 4096 >> 22):
            stream.write(piece)
    return path


@pytest.mark.slow
def test_compressed_samples_are_unpacked_no_further_than_asked_for(tmp_path):
    import resource

    path = bomb(tmp_path / "data.npz", 1 << 17)  # half a GB
    assert path.stat().st_size < 1 << 20
    data = open_data(str(path), *SPECS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(b.size for b in data.take(16).batches(8)) == 16
    assert data.count() == 1 << 17
    assert next(data.batches(64)).size == 64
    grown_by = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown_by < 300 << 10  # kilobytes
    with limited(G >> 2), pytest.raises(DataError, match="needs 512 MB"):
        next(data.batches(64, shuffle=True))


@pytest.mark.parametrize("order", ["C", "F"])
def test_compressed_samples_come_out_as_they_went_in(tmp_path, order, monkeypatch):
    monkeypatch.setattr("onnxprune.evaluate.data.sources._PIECE", 10 * 4096)
    values = np.random.default_rng(0).normal(size=(37, 1024)).astype(np.float32)
    np.savez_compressed(tmp_path / "data.npz", x=np.asarray(values, order=order))
    data = open_data(str(tmp_path / "data.npz"), *SPECS)
    for size in (1, 8, 100):
        assert np.array_equal(np.concatenate([b.inputs["x"] for b in data.batches(size)]), values)
    mixed = np.concatenate([b.inputs["x"] for b in data.batches(8, shuffle=True)])
    assert not np.array_equal(mixed, values)
    assert np.array_equal(np.sort(mixed, axis=0), np.sort(values, axis=0))
    assert np.array_equal(np.concatenate([b.inputs["x"] for b in data.take(13).batches(5)]), values[:13])


# --- nodes that hold much


def with_large_nodes():
    """A constant of 2 MB in a node, and a table of as much in another."""
    table, random = list(range(300_000)), np.random.default_rng(0)
    weights = random.normal(size=(512, 1024)).astype(np.float32) / 16
    constant = numpy_helper.from_array(weights, "values")
    values = (np.arange(len(table)) % 7 - 3.0).tolist()
    encode = onnx.helper.make_node(
        "LabelEncoder", ["x"], ["e"], domain="ai.onnx.ml", keys_int64s=table, values_floats=values
    )
    nodes = [
        encode,
        onnx.helper.make_node("Constant", [], ["w"], value=constant),
        onnx.helper.make_node("MatMul", ["e", "w"], ["h"]),
        onnx.helper.make_node("Relu", ["h"], ["r"]),
        onnx.helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "large",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["N", 512])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(random.normal(size=(1024, 4)).astype(np.float32), "v")],
    )
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 2)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_large_nodes_are_not_copied_to_be_checked(tmp_path):
    model = load(disk.save(with_large_nodes(), tmp_path / "model.onnx"))
    assert model.proto.ByteSize() > 4 << 20
    assert skeleton(model.proto).ByteSize() < 2000
    assert refusal(model) is None


def test_networks_behind_large_nodes_are_pruned(tmp_path):
    path = disk.save(with_large_nodes(), tmp_path / "model.onnx")
    assert disk.run("prune", path, *PRUNE, "-o", tmp_path / "s.onnx").code == 0
    done = disk.run("transform", tmp_path / "s.onnx", "-o", tmp_path / "d.onnx", "--json")
    assert done.code == 0, done.err
    assert done.facts["params"] < 0.6 * done.facts["params_before"]


def test_only_the_attribute_that_is_asked_for_is_read(monkeypatch):
    node = with_large_nodes().graph.node[0]
    read = []
    real = onnx.helper.get_attribute_value
    monkeypatch.setattr("onnx.helper.get_attribute_value", lambda a: (read.append(a.name), real(a))[1])
    found = attributes(node)
    assert found.get("default_float", 0.0) == 0.0
    assert "keys_int64s" in found
    assert set(found) == {"keys_int64s", "values_floats"}
    assert read == []
    assert len(found["keys_int64s"]) == 300_000
    assert read == ["keys_int64s"]
