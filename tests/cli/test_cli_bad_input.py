"""Bad input: error, hint, exit code, nothing written, no traceback."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper

from onnxprune.decisions.plan import PLAN_KEY


@pytest.fixture
def model(tmp_path):
    return disk.save(disk.network(), tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path):
    return disk.save_data(tmp_path / "data.npz", **disk.samples())


@pytest.fixture(scope="module")
def sparse_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    model = disk.save(disk.network(), folder / "model.onnx")
    assert disk.run("prune", model, "--reduce-macs", 0.4, "-o", folder / "sparse.onnx").code == 0
    return (folder / "sparse.onnx").read_bytes()


@pytest.fixture
def sparse(tmp_path, sparse_bytes):
    path = tmp_path / "sparse.onnx"
    path.write_bytes(sparse_bytes)
    return str(path)


def refused(folder, *words, code=1):
    """Run a command that has to be refused, and see that it leaves the folder as it was."""
    before = disk.tree(folder)
    said = disk.run(*words).refused(code)
    assert disk.tree(folder) == before
    return said


# --- models


def proto_of(text):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


def empty_graph():
    graph = helper.make_graph([], "nothing", [], [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def cyclic():
    return proto_of("g (float[1] x) => (float[1] y) { a = Add (x, b)  b = Relu (a)  y = Relu (b) }")


def dangling():
    return proto_of("g (float[1] x) => (float[1] y) { y = Add (x, nowhere) }")


def no_such_output():
    return proto_of("g (float[1] x) => (float[1] y) { z = Relu (x) }")


def unknown_opset():
    proto = disk.network()
    proto.opset_import[0].version = 999
    return proto


def ancient_opset():
    proto = disk.network()
    proto.opset_import[0].version = 3
    return proto


def no_opset():
    proto = disk.network()
    del proto.opset_import[:]
    return proto


def not_a_number():
    return disk.network(w2=np.full((24, 16, 3, 3), np.nan, np.float32))


def unknown_operator():
    return proto_of("g (float[1] x) => (float[1] y) { y = NoSuchOperator (x) }")


def wrong_shapes():
    return disk.network(w2=np.ones((24, 15, 3, 3), np.float32))


def wrong_attribute():
    proto = disk.network()
    proto.graph.node[0].attribute[0].name = "kernel_shapes"
    return proto


def cut_weights():
    proto = disk.network()
    proto.graph.initializer[2].raw_data = proto.graph.initializer[2].raw_data[:-8]
    return proto


def weights_of_no_type():
    proto = disk.network()
    proto.graph.initializer[2].data_type = 99
    return proto


def negative_weights_shape():
    proto = disk.network()
    proto.graph.initializer[2].dims[0] = -24
    return proto


def plan_that_contradicts_itself():
    proto = disk.network()
    plan = '{"format":1,"removed":{"conv1":[99]},"sizes":{"conv1":16},"settings":{},'
    plan += '"baseline":{"macs":9,"params":9,"channels":9},"allow_inexact":false,"input_shapes":{}}'
    proto.metadata_props.add(key=PLAN_KEY, value=plan)
    return proto


def same_tensor_twice():
    return proto_of("g (float[1] x) => (float[1] y) { y = Relu (x)  y = Neg (x) }")


def input_of_no_type():
    proto = disk.network()
    proto.graph.input[0].type.tensor_type.elem_type = 65
    return proto


def damaged_plan():
    proto = disk.network()
    proto.metadata_props.add(key=PLAN_KEY, value='{"format": 1, "removed": []}')
    return proto


def plan_that_is_no_text():
    proto = disk.network()
    proto.metadata_props.add(key=PLAN_KEY, value="here it stands")
    return onnx.ModelProto.FromString(proto.SerializeToString().replace(b"here it", b"\xff" * 7))


def plan_of_another_model():
    proto = disk.network()
    plan = '{"format":1,"removed":{"other":[0]},"sizes":{"other":8},"settings":{},'
    plan += '"baseline":{"macs":9,"params":9,"channels":9},'
    proto.metadata_props.add(key=PLAN_KEY, value=plan + '"allow_inexact":false,"input_shapes":{}}')
    return proto


BROKEN_MODELS = {
    empty_graph: "no nodes",
    cyclic: "circle",
    dangling: "nowhere",
    no_such_output: "no node makes the output 'y'",
    unknown_opset: "999",
    ancient_opset: "3",
    no_opset: "opset",
    unknown_operator: "NoSuchOperator",
    wrong_attribute: "kernel_shapes",
    cut_weights: "w2",
    weights_of_no_type: "w2",
    negative_weights_shape: "w2",
    same_tensor_twice: "y",
    input_of_no_type: "'image' is of unknown type 65",
}
DAMAGED_FOR_PRUNING = {
    not_a_number: "'w2' holds NaN",
    wrong_shapes: "conv2",
    damaged_plan: "plan",
    plan_that_is_no_text: "text",
    plan_of_another_model: "'other'",
    plan_that_contradicts_itself: "'conv1' of 16 channels cannot lose [99]",
}


@pytest.mark.parametrize("make", [*BROKEN_MODELS, *DAMAGED_FOR_PRUNING])
def test_models_that_cannot_be_pruned(tmp_path, make):
    path = disk.save(make(), tmp_path / "model.onnx")
    said = refused(tmp_path, "prune", path, "--reduce-macs", 0.3, "-o", tmp_path / "out.onnx")
    assert {**BROKEN_MODELS, **DAMAGED_FOR_PRUNING}[make] in said


@pytest.mark.parametrize("command", ["inspect", "bench"])
@pytest.mark.parametrize("make", BROKEN_MODELS)
def test_models_that_cannot_be_looked_at(tmp_path, make, command):
    path = disk.save(make(), tmp_path / "model.onnx")
    assert BROKEN_MODELS[make] in refused(tmp_path, command, path)


FILES = {
    "empty": b"",
    "text": b"This is no model, only a sentence or two.",
    "zip": b"PK\x03\x04" + bytes(60),
    "zeros": bytes(400),
    "half": disk.network().SerializeToString()[:3000],
    "all but a byte": disk.network().SerializeToString()[:-1],
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("command", ["inspect", "prune", "finetune", "transform", "verify", "bench"])
def test_files_that_are_no_models(tmp_path, model, data, command, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    words = {
        "inspect": (),
        "prune": ("--reduce-macs", 0.3, "-o", tmp_path / "out.onnx"),
        "finetune": ("--data", data, "-o", tmp_path / "out.onnx"),
        "transform": ("-o", tmp_path / "out.onnx"),
        "verify": (model,),
        "bench": (model,),
    }[command]
    assert "broken.onnx" in refused(tmp_path, command, path, *words)


@pytest.mark.parametrize("name", [b"conv1", b"image", b"w2", b"Relu", b"kernel_shape", b"logits", b"N"])
def test_names_that_are_no_text(tmp_path, name):
    path = tmp_path / "model.onnx"
    path.write_bytes(disk.network().SerializeToString().replace(name, b"\xff" * len(name)))
    for words in (("inspect",), ("prune", "--reduce-macs", 0.3, "-o", tmp_path / "out.onnx")):
        refused(tmp_path, words[0], path, *words[1:])


@pytest.mark.parametrize("path", ["none.onnx", ".", "none/at/all.onnx", "model.onnx/inside.onnx", "x" * 300])
def test_no_such_file(tmp_path, model, path):
    refused(tmp_path, "inspect", tmp_path / path)


def test_a_model_that_may_not_be_read(tmp_path, model, monkeypatch):
    def deny(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    assert "Permission denied" in disk.run("inspect", model).refused()


# --- external data


def test_external_data_that_is_missing(tmp_path):
    path = disk.save_external(disk.network(), tmp_path / "model.onnx")
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refused(tmp_path, "inspect", path)


def test_external_data_that_is_cut_short(tmp_path):
    path = disk.save_external(disk.network(), tmp_path / "model.onnx")
    os.truncate(tmp_path / "weights.bin", 100)
    assert "cut short" in refused(tmp_path, "inspect", path)


@pytest.mark.parametrize(
    "location", ["../weights.bin", "{folder}/weights.bin", "", "link.bin", "folder", "a\0b"]
)
def test_external_data_outside_the_folder(tmp_path, location):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "folder").mkdir()
    path = disk.save_external(disk.network(), inner / "model.onnx")
    shutil.move(inner / "weights.bin", tmp_path / "weights.bin")
    (inner / "link.bin").symlink_to(tmp_path / "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location.format(folder=tmp_path)
    disk.save(proto, inner / "model.onnx")
    refused(tmp_path, "inspect", path)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-8"), ("offset", "many"), ("length", "-1"), ("length", "x")]
)
def test_external_data_with_impossible_numbers(tmp_path, key, value):
    path = disk.save_external(disk.network(), tmp_path / "model.onnx")
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[2].external_data if e.key == key).value = value
    disk.save(proto, tmp_path / "model.onnx")
    refused(tmp_path, "inspect", path)


# --- data


def arrays(**changed):
    given = {**disk.samples(), **changed}
    return {name: array for name, array in given.items() if array is not None}


IMAGES, LABELS = disk.samples()["image"], disk.samples()["labels"]
BAD_ARRAYS = {
    "no input": (arrays(image=None), "image"),
    "another name": (arrays(image=None, picture=IMAGES), "picture"),
    "a slip of a name": (arrays(labels=None, label=LABELS), "'label'"),
    "wrong rank": (arrays(image=IMAGES[0]), "shape"),
    "wrong size": (arrays(image=IMAGES[:, :, :5]), "shape"),
    "wrong channels": (arrays(image=IMAGES[:, :2]), "shape"),
    "bytes": (arrays(image=IMAGES.astype(np.uint8)), "uint8"),
    "complex": (arrays(image=IMAGES.astype(np.complex64)), "complex64"),
    "strings": (arrays(image=IMAGES.astype(str)), "image"),
    "fewer labels": (arrays(labels=LABELS[:-1]), "number of samples"),
    "label too large": (arrays(labels=LABELS + 1), "label"),
    "label below zero": (arrays(labels=LABELS - 1), "label"),
    "labels not whole": (arrays(labels=LABELS + 0.5), "labels"),
    "not a number": (arrays(image=np.where(IMAGES > 2, np.nan, IMAGES)), "NaN"),
    "infinite": (arrays(image=np.where(IMAGES > 2, np.inf, IMAGES)), "infinite"),
    "beyond float32": (arrays(image=IMAGES.astype(np.float64) * 1e300), "infinite"),
    "no samples": (arrays(image=IMAGES[:0], labels=LABELS[:0]), "no samples"),
    "no arrays": ({}, "image"),
    "a number": (arrays(labels=np.int64(3)), "labels"),
}


def commands_with_data(model, sparse, data, out):
    return {
        "transform": ("transform", sparse, "--data", data, "-o", out),
        "verify": ("verify", sparse, sparse, "--data", data),
        "bench": ("bench", model, "--runs", 1, "--data", data, "--metric", "top1"),
        "finetune": ("finetune", sparse, "--data", data, "-o", out),
        "ana": ("ana", model, "--data", data, "-o", out),
    }


@pytest.mark.parametrize("command", ["bench", "finetune", "ana"])
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_data_that_does_not_fit(tmp_path, model, sparse, command, case):
    content, expected = BAD_ARRAYS[case]
    data = disk.save_data(tmp_path / "data.npz", **content)
    words = commands_with_data(model, sparse, data, tmp_path / "out")[command]
    assert expected in refused(tmp_path, *words)


@pytest.mark.parametrize("command", ["transform", "verify"])
@pytest.mark.parametrize("case", ["no input", "wrong size", "bytes", "not a number", "no samples"])
def test_data_to_compare_on_that_does_not_fit(tmp_path, model, sparse, command, case):
    content, expected = BAD_ARRAYS[case]
    data = disk.save_data(tmp_path / "data.npz", **content)
    words = commands_with_data(model, sparse, data, tmp_path / "out")[command]
    assert expected in refused(tmp_path, *words)


class Exploding:
    """An object that would do harm if it were unpickled."""

    def __reduce__(self):
        return os.abort, ()


def pickled(path):
    np.savez(path, image=np.array([Exploding()], dtype=object), labels=LABELS[:1])


def renamed_text(path):
    path.write_text("image, labels")


def renamed_array(path):
    with path.open("wb") as stream:
        np.save(stream, IMAGES)


def truncated(path):
    np.savez(path, **disk.samples())
    os.truncate(path, path.stat().st_size // 2)


def flipped(path):
    np.savez_compressed(path, **disk.samples())
    content = bytearray(path.read_bytes())
    content[500:600] = bytes(100)
    path.write_bytes(content)


def lying_header(path):
    """A header with a shape far larger than the data that follows."""
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 3, 8, 8), }".ljust(117) + "\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", member)


def no_array_inside(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", "not an array")


def unreadable_header(path):
    """A header that is no Python."""
    np.savez(path, **disk.samples())
    content = path.read_bytes().replace(b"'fortran_order'", b"(" * 15, 1)
    path.write_bytes(content)


def unknown_compression(path):
    np.savez(path, **disk.samples())
    content = bytearray(path.read_bytes())
    for start in (content.find(b"PK\x03\x04") + 8, content.find(b"PK\x01\x02") + 10):
        content[start] = 77
    path.write_bytes(content)


def empty_file(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "make",
    [
        pickled,
        renamed_text,
        renamed_array,
        truncated,
        flipped,
        lying_header,
        unreadable_header,
        unknown_compression,
        no_array_inside,
        empty_file,
    ],
)
@pytest.mark.parametrize("command", ["verify", "bench"])
def test_files_that_are_no_data(tmp_path, model, sparse, command, make):
    make(tmp_path / "data.npz")
    words = commands_with_data(model, sparse, tmp_path / "data.npz", tmp_path / "out")[command]
    assert "data.npz" in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("none.npz", "none.npz"),
        ("empty", "empty"),
        ("no_such_module:batches", "no_such_module"),
        ("json:batches", "batches"),
        ("json:JSONDecodeError", "JSONDecodeError"),
        ("json:__doc__", "__doc__"),
    ],
)
def test_data_that_is_not_there(tmp_path, model, monkeypatch, data, expected):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert expected in refused(tmp_path, "bench", model, "--data", data, "--metric", "top1")


# --- metrics, criteria, reductions


@pytest.mark.parametrize("metric", ["top2", "", "no_such_module:score", "top1@nowhere"])
def test_unknown_metrics(tmp_path, model, data, metric):
    code = 1 if ":" in metric or "@" in metric else 2
    refused(tmp_path, "bench", model, "--runs", 1, "--data", data, "--metric", metric, code=code)


def test_a_metric_without_its_arrays_in_the_data(tmp_path, model):
    data = disk.save_data(tmp_path / "data.npz", image=IMAGES)
    for metric in ("top1", "mse"):
        assert "needs" in refused(tmp_path, "bench", model, "--data", data, "--metric", metric)


@pytest.mark.parametrize(
    "words",
    [
        ("--reduce-macs", "0"),
        ("--reduce-macs", "1"),
        ("--reduce-macs", "-0.5"),
        ("--reduce-macs", "50"),
        ("--reduce-macs", "nan"),
        ("--reduce-macs", "inf"),
        ("--reduce-macs", "half"),
        ("--reduce-params", "1"),
        ("--reduce-channels", "0"),
        (),
        ("--reduce-macs", "0.5", "--reduce-params", "2"),
        ("--reduce-latency", "0"),
        ("--reduce-size", "nan"),
        ("--max-drop", "0.1"),
        ("--max-drop", "-1"),
        ("--reduce-macs", "0.5", "--criterion", "taylor"),
        ("--reduce-macs", "0.5", "--strategy", "search"),
        ("--reduce-macs", "0.5", "--keep-at-least", "conv1=0"),
        ("--reduce-macs", "0.5", "--evaluations", "-1"),
        ("--reduce-macs", "0.5", "--criterion", "l3"),
        ("--reduce-macs", "0.5", "--strategy", "luck"),
        ("--reduce-macs", "0.5", "--strategy", "sensitivity"),
        ("--reduce-macs", "0.5", "--round-to", "0"),
        ("--reduce-macs", "0.5", "--round-to", "two"),
        ("--reduce-macs", "0.5", "--max-ratio", "1"),
        ("--reduce-macs", "0.5", "--max-ratio", "nan"),
        ("--reduce-macs", "0.5", "--seed", "-1"),
        ("--reduce-macs", "0.5", "--shape", "image"),
        ("--reduce-macs", "0.5", "--shape", "image=1x3xWxH"),
        ("--reduce-macs", "0.5", "--shape", "image=0x3x8x8"),
        ("--reduce-macs", "0.5", "--shape", "picture=1x3x8x8"),
        ("--reduce-macs", "0.5", "--shape", "image=1x3x8"),
        ("--reduce-macs", "0.5", "--shape", "image=1x4x8x8"),
    ],
)
def test_wrong_usage_of_prune(tmp_path, model, words):
    refused(tmp_path, "prune", model, *words, "-o", tmp_path / "out.onnx", code=2)


@pytest.mark.parametrize("words", [("--device", "cuda"), ("--gpu",), ("--cuda",)])
def test_a_device_is_named_by_its_provider(tmp_path, model, words):
    said = refused(tmp_path, "prune", model, *words, "--reduce-macs", 0.5, "-o", tmp_path / "o.onnx", code=2)
    assert "--provider cuda" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--reduce-macs", "0.99"), "out of reach"),
        (("--reduce-params", "0.999"), "out of reach"),
        (("--reduce-macs", "0.5", "--exclude", "conv9"), "'conv9' matches no"),
        (("--reduce-macs", "0.5", "--only", "w?*x"), "'w?*x' matches no"),
        (("--reduce-macs", "0.5", "--exclude", "*"), "nothing to prune"),
    ],
)
def test_prunings_out_of_reach(tmp_path, model, words, expected):
    assert expected in refused(tmp_path, "prune", model, *words, "-o", tmp_path / "out.onnx")


def test_a_reduction_already_reached(tmp_path, sparse):
    said = refused(tmp_path, "prune", sparse, "--reduce-macs", 0.2, "-o", tmp_path / "out.onnx")
    assert "already" in said


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"no json", b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "curves": 3}']
)
def test_files_that_are_no_analysis(tmp_path, model, content):
    path = tmp_path / "analysis.json"
    path.write_bytes(content)
    words = ("--analysis", path, "--reduce-macs", 0.3, "-o", tmp_path / "out.onnx")
    assert "analysis.json" in refused(tmp_path, "prune", model, *words)


def test_no_such_analysis(tmp_path, model):
    words = ("--analysis", tmp_path / "none.json", "--reduce-macs", 0.3, "-o", tmp_path / "out.onnx")
    assert "none.json" in refused(tmp_path, "prune", model, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--lr", "-1"),
        ("--lr", "nan"),
        ("--weight-decay", "-1"),
        ("--warmup", "1"),
        ("--clip-norm", "0"),
        ("--loss", "hinge"),
        ("--loss", "distill"),
        ("--optimizer", "lion"),
        ("--schedule", "zigzag"),
        ("--teacher", "model.onnx"),
        ("--threads", "0"),
    ],
)
def test_wrong_usage_of_finetune(tmp_path, sparse, data, words):
    refused(tmp_path, "finetune", sparse, "--data", data, *words, "-o", tmp_path / "out.onnx", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("--ratios", "0,0.5"),
        ("--ratios", "1"),
        ("--ratios", "some"),
        ("--ratios", ""),
        ("--metric", "top2"),
        ("--criterion", "l3"),
        ("--batch-size", "0"),
        ("--samples", "0"),
        ("--workers", "0"),
        ("--shape", "picture=1x3x8x8"),
    ],
)
def test_wrong_usage_of_ana(tmp_path, model, data, words):
    refused(tmp_path, "ana", model, "--data", data, *words, "-o", tmp_path / "analysis.json", code=2)


def test_an_exclude_of_ana_that_matches_nothing(tmp_path, model, data):
    words = ("--data", data, "--exclude", "conv9", "-o", tmp_path / "analysis.json")
    assert "'conv9' matches no" in refused(tmp_path, "ana", model, *words)


@pytest.mark.parametrize("words", [("verify", "one.onnx"), ("bench",), ("inspect",), ("transform", "a.onnx")])
def test_arguments_that_are_missing(tmp_path, words):
    refused(tmp_path, *words, code=2)


# --- outputs


def same(path):
    return path


def spelled_differently(path):
    return path.parent / "." / ".." / path.parent.name / path.name


def through_a_link(path):
    link = path.with_name("link.onnx")
    link.symlink_to(path)
    return link


def through_a_hard_link(path):
    link = path.with_name("hard.onnx")
    link.hardlink_to(path)
    return link


@pytest.mark.parametrize("spell", [same, spelled_differently, through_a_link, through_a_hard_link])
@pytest.mark.parametrize("command", ["prune", "transform", "finetune"])
def test_the_input_is_never_overwritten(tmp_path, sparse, data, command, spell):
    words = {"prune": ("--reduce-macs", 0.6), "transform": (), "finetune": ("--data", data)}[command]
    assert "is an input" in refused(tmp_path, command, sparse, *words, "-o", spell(Path(sparse)))


def test_no_input_of_any_kind_is_overwritten(tmp_path, sparse, data):
    assert "is an input" in refused(tmp_path, "transform", sparse, "--data", data, "-o", data)
    assert "is an input" in refused(tmp_path, "finetune", sparse, "--data", sparse, "--val", data, "-o", data)


@pytest.mark.parametrize(
    "place", ["none/out.onnx", "folder", "data.npz/out.onnx", "loop", "/dev/null", "x" * 300]
)
def test_places_that_cannot_be_written(tmp_path, model, data, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path, "prune", model, "--reduce-macs", 0.3, "-o", tmp_path / place)


def test_a_disk_that_is_full(tmp_path, model):
    """The system lets the process write 2,000 bytes a file and not one more."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    before = disk.tree(tmp_path)
    words = ["prune", model, "--reduce-macs", "0.3", "-o", str(tmp_path / "out.onnx")]
    command = [sys.executable, "-m", "onnxprune", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limit, cwd=tmp_path
    )
    assert "cannot write" in disk.Outcome(done.returncode, done.stdout, done.stderr).refused()
    assert disk.tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path, model):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    words = ("--reduce-macs", 0.3, "-o", locked / "out.onnx")
    assert "may not be written" in refused(tmp_path, "prune", model, *words)


def test_an_operator_that_cannot_be_run_is_compared_up_to(tmp_path):
    """Valid by the specification, but of an operator domain that onnxruntime does not know."""
    proto = disk.network()
    proto.opset_import.append(helper.make_opsetid("somebody.else", 1))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Mystery", ["before"], ["logits"], domain="somebody.else"))
    path = disk.save(proto, tmp_path / "model.onnx")
    assert disk.run("prune", path, "--reduce-macs", 0.2, "-o", tmp_path / "out.onnx").code == 0
    done = disk.run("transform", tmp_path / "out.onnx", "-o", tmp_path / "dense.onnx", "--json")
    assert done.code == 0
    assert any("Mystery" in note for note in done.facts["notes"])


def test_a_group_of_infinite_weights_cannot_be_ranked(tmp_path):
    weights = np.ones((24, 16, 3, 3), np.float32)
    weights[0, 0, 0, 0] = np.inf
    path = disk.save(disk.network(w2=weights), tmp_path / "model.onnx")
    said = refused(tmp_path, "prune", path, "--reduce-macs", 0.3, "-o", tmp_path / "out.onnx")
    assert "infinite" in said


def test_a_budget_of_a_cost_that_the_model_did_not_have(tmp_path):
    """The plan in a sparse model may count no channels of the original."""
    proto = disk.network()
    plan = '{"format":1,"removed":{},"sizes":{},"settings":{},"allow_inexact":false,"input_shapes":{},'
    plan += '"baseline":{"macs":9,"params":9,"channels":0}}'
    proto.metadata_props.add(key=PLAN_KEY, value=plan)
    path = disk.save(proto, tmp_path / "model.onnx")
    done = disk.run("prune", path, "--reduce-channels", 0.5, "--criterion", "l2", "-o", tmp_path / "s.onnx")
    assert "channels cannot be reduced" in done.refused(1)
