"""Tensors in mapped files: values, lifetime, writing; models that refer to them."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.ir import Model, load, reading
from onnxprune.ir.output import write_model
from onnxprune.runtime import Session
from onnxprune.support import mapped, regions
from onnxprune.support.mapped import (
    array_of,
    blocks,
    blocks_of,
    byte_count,
    changed,
    is_mapped,
    message_bytes,
    parts,
    release,
    same_values,
    spilled,
)

WIDTH = 160


def two_products(kind=np.float32) -> onnx.ModelProto:
    """Return ``x [n WIDTH] → y [n WIDTH]``, two matrices of `WIDTH`² elements."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((WIDTH, WIDTH)).astype(kind) / 12 for _ in range(2)]
    names = ["w0", "w1"]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        onnx.helper.make_node("Relu", ["h"], ["r"], name="relu"),
        onnx.helper.make_node("MatMul", ["r", "w1"], ["y"], name="second"),
    ]
    type_of = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "two products",
        [info("x", type_of, ["n", WIDTH])],
        [info("y", type_of, ["n", WIDTH])],
        [numpy_helper.from_array(w.astype(kind), n) for w, n in zip(weights, names, strict=True)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Return a model with external data, which are mapped at any size."""
    monkeypatch.setattr(reading, "MAP_ABOVE", 0)
    place = tmp_path / "model.onnx"
    onnx.save(two_products(), place, save_as_external_data=True, location="w.bin", size_threshold=0)
    return place


def test_mapped_values_are_those_of_the_file(path):
    whole, model = load(path), load(path, mapped=True)
    assert model.mapped
    assert not whole.mapped
    assert all(is_mapped(t) for t in model.proto.graph.initializer)
    for name in ("w0", "w1"):
        assert np.array_equal(model.array(name), whole.array(name))
        assert byte_count(model.constants[name]) == whole.array(name).nbytes
        assert not model.array(name).flags.writeable
    assert model.in_memory().proto == whole.proto
    assert message_bytes(model.proto) == whole.proto.ByteSize()


def test_small_data_are_read(tmp_path):
    place = tmp_path / "model.onnx"
    onnx.save(two_products(), place, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert not load(place, mapped=True).mapped


def test_arrays_hold_when_pages_are_given_back_and_models_are_gone(path):
    model = load(path, mapped=True)
    values, expected = model.array("w0"), load(path).array("w0")
    del model
    gc.collect()
    release()
    assert np.array_equal(values, expected)


def test_values_of_a_deleted_model_are_refused_by_name(path):
    model = load(path, mapped=True)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(model.constants["w0"])
    del model
    gc.collect()
    with pytest.raises(ValueError, match="'w0' are gone"):
        array_of(tensor)


def test_new_values_of_a_mapped_model_stay_out_of_the_message(path):
    model = load(path, mapped=True)
    other = model.copy()
    other.set_array("w0", np.zeros((WIDTH, WIDTH), np.float32))
    added = other.add_constant("more", np.ones((WIDTH, WIDTH), np.float32))
    assert is_mapped(other.constants["w0"])
    assert is_mapped(other.constants[added])
    assert other.proto.ByteSize() < 2000
    del model
    gc.collect()
    assert not other.array("w0").any()
    assert other.array(added).all()
    assert other.array("w1").any()


@pytest.fixture
def no_room(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(regions.tempfile, "TemporaryFile", full)


def test_no_room_for_new_values_leaves_them_in_memory(no_room):
    values = np.random.default_rng(1).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    tensor, region = spilled(values, "w")
    assert region is None
    assert np.array_equal(numpy_helper.to_array(tensor), values)


@pytest.mark.parametrize("shape", [(7, 3), (3, 2, 2), (4,), ()])
@pytest.mark.parametrize("maps", [True, False])
def test_values_change_a_part_at_a_time(monkeypatch, shape, maps):
    monkeypatch.setattr(mapped, "BLOCK", 16)
    monkeypatch.setattr(mapped, "SMALLEST", 1 if maps else 1 << 16)
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    seen = []

    def change(part, block):
        seen.append(part)
        return block + 1

    before, _held = spilled(values, "w")
    tensor, region = changed(before, change)
    assert (region is not None) == maps
    assert len(seen) == (0 if maps else len(list(parts(values))))
    assert np.array_equal(mapped.array_of(tensor), values + 1)
    assert len(seen) == len(list(parts(values)))


def test_blocks_of_changed_values_need_no_file(monkeypatch, request):
    monkeypatch.setattr(mapped, "BLOCK", 4 * WIDTH * 8)
    before = np.arange(WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH)
    tensor, _held = spilled(before, "w")
    request.getfixturevalue("no_room")
    once, _first = changed(tensor, lambda _, block: block + 1)
    twice, _second = changed(once, lambda place, block: block * 2 if place != slice(0, 8) else block)
    del _first
    gc.collect()
    found = list(blocks_of(twice))
    assert len(found) == WIDTH // 8
    expected = (before + 1) * 2
    expected[:8] /= 2
    assert np.array_equal(np.concatenate(found), expected)
    assert np.array_equal(array_of(twice), expected)  # in memory, for there is no room
    release()
    assert np.array_equal(array_of(twice), expected)
    assert np.array_equal(np.concatenate(list(blocks_of(twice))), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages by /proc")
def test_pages_are_given_back_while_native_code_reads(monkeypatch):
    monkeypatch.setattr(mapped, "_RELEASE_S", 0.001)
    tensor, region = spilled(np.ones((4096, 4096), np.float32), "w")
    values = mapped.array_of(tensor)
    assert region is not None
    with mapped.released_meanwhile():
        total, end = values.sum(), time.monotonic() + 20
        while _resident_kb(region) > 1024 and time.monotonic() < end:
            time.sleep(0.005)
        left = _resident_kb(region)
    assert total == values.size
    assert left <= 1024
    assert values[-1, -1] == 1


def _resident_kb(region) -> int:
    """Pages of a mapping that are in memory."""
    start = np.frombuffer(region.pages, np.uint8).ctypes.data
    lines = Path("/proc/self/smaps").read_text().splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith(f"{start:x}-"))
    return next(int(line.split()[1]) for line in lines[head:] if line.startswith("Rss:"))


def test_equality_is_that_of_the_values(path):
    one, two = load(path, mapped=True), load(path, mapped=True)
    assert same_values(one.constants["w0"], two.constants["w0"])
    assert same_values(one.constants["w0"], load(path).constants["w0"])
    two.set_array("w0", np.where(np.eye(WIDTH) > 0, np.float32(1), two.array("w0")))
    assert not same_values(one.constants["w0"], two.constants["w0"])


@pytest.mark.parametrize("shape", [(7, 3), (1, 5), (4,), ()])
def test_parts_cover_an_array(monkeypatch, shape):
    monkeypatch.setattr(mapped, "BLOCK", 16)
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    found = list(blocks(values))
    assert np.array_equal(np.concatenate([np.atleast_1d(part) for part in found]), np.atleast_1d(values))
    assert all(len(np.atleast_1d(part)) >= 1 for part in found)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_sessions_compute_the_same_with_mapped_weights(tmp_path, monkeypatch, optimize, kind):
    monkeypatch.setattr(reading, "MAP_ABOVE", 0)
    monkeypatch.setattr(mapped, "SMALLEST", 1 << 10)
    place = tmp_path / "model.onnx"
    onnx.save(two_products(kind), place, save_as_external_data=True, location="w.bin", size_threshold=0)
    model, feeds = load(place, mapped=True), {"x": np.ones((3, WIDTH), kind)}
    session = Session(model.proto, optimize=optimize)
    assert [spec.name for spec in session.inputs] == ["x"]
    expected = Session(load(place).proto, optimize=optimize).run(feeds)["y"]
    assert np.allclose(
        session.run(feeds)["y"], expected, rtol=1e-2 if kind == np.float16 else 1e-5, atol=1e-3
    )


def test_a_mapped_model_is_written_as_any_other(path, tmp_path):
    whole, model = load(path), load(path, mapped=True)
    for folder, given in (("a", whole), ("b", model)):
        (tmp_path / folder).mkdir()
        given.set_array("w0", np.tril(given.array("w0")))
        write_model(given, tmp_path / folder / "out.onnx")
    for name in ("out.onnx", "out.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_commands_make_the_same_files_of_mapped_models(path, tmp_path, monkeypatch):
    found = {}
    for name, above in (("mapped", 0), ("read", 1 << 40)):
        monkeypatch.setattr(reading, "MAP_ABOVE", above)
        folder = tmp_path / name
        folder.mkdir()
        sparse, dense = folder / "sparse.onnx", folder / "dense.onnx"
        assert not disk.run("prune", path, "--reduce-params", "0.3", "--criterion", "l2", "-o", sparse).code
        assert not disk.run("transform", sparse, "-o", dense).code
        found[name] = [f.read_bytes() for f in sorted(folder.iterdir())]
    assert found["mapped"] == found["read"]


def test_a_model_that_was_made_of_a_mapped_one_keeps_its_values(path):
    model = load(path, mapped=True)
    made = Model(model.copy().proto)
    del model
    gc.collect()
    assert made.array("w1").any()
