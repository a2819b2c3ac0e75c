from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError, OutputError, UnverifiedError
from onnxprune.ir import Model, check, load, output
from onnxprune.ir.output import check_output, data_files, stored_bytes, write_model, write_text


@pytest.fixture
def model():
    return check(Model(disk.network()))


@pytest.fixture
def external(tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    return load(disk.save_external(disk.network(), folder / "model.onnx"))


def weights(model):
    return {name: model.array(name) for name in model.constants}


def assert_same_weights(a, b):
    for name, values in weights(a).items():
        np.testing.assert_array_equal(values, weights(b)[name])


# --- whole, and the same


def test_a_model_is_written_byte_for_byte(tmp_path, model):
    size = write_model(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == model.proto.SerializeToString()
    assert size == stored_bytes(tmp_path / "out.onnx") == (tmp_path / "out.onnx").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_a_file_that_was_there_is_replaced(tmp_path, model):
    (tmp_path / "out.onnx").write_text("before")
    write_model(model, tmp_path / "out.onnx")
    assert load(tmp_path / "out.onnx").proto == model.proto


def test_a_link_is_followed_and_stays(tmp_path, model):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real" / "out.onnx")
    write_model(model, tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert load(tmp_path / "real" / "out.onnx").proto == model.proto


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_others_may_read_files_as_the_umask_allows(tmp_path, model):
    before = os.umask(0o027)
    try:
        write_model(model, tmp_path / "out.onnx")
        write_text(tmp_path / "out.json", "{}")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


def test_text_is_written_as_it_is(tmp_path):
    write_text(tmp_path / "out.json", "é\r\n\n")
    assert (tmp_path / "out.json").read_bytes() == "é\r\n\n".encode()


# --- external data


def test_external_data_stays_external_and_loads_elsewhere(tmp_path, external):
    size = write_model(external, tmp_path / "out.onnx", inputs=[external.path])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given", "out.onnx", "out.onnx.data"]
    assert data_files(tmp_path / "out.onnx") == {tmp_path / "out.onnx.data"}
    written = load(tmp_path / "out.onnx")
    assert written.external
    assert_same_weights(external, written)
    assert (
        size
        == stored_bytes(tmp_path / "out.onnx")
        == sum((tmp_path / n).stat().st_size for n in ("out.onnx", "out.onnx.data"))
    )
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("out.onnx", "out.onnx.data"):
        (tmp_path / name).rename(moved / name)
    assert_same_weights(external, load(moved / "out.onnx"))


def test_external_data_can_be_mapped_into_memory(tmp_path, external):
    write_model(external, tmp_path / "out.onnx")
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    offsets = [int(e.value) for t in proto.graph.initializer for e in t.external_data if e.key == "offset"]
    assert offsets
    assert all(offset % 4096 == 0 for offset in offsets)


def test_small_tensors_stay_in_the_message(tmp_path, external):
    write_model(external, tmp_path / "out.onnx")
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    inside = {t.name for t in proto.graph.initializer if t.data_location == TensorProto.DEFAULT}
    assert inside == {"b1", "b2", "b3", "w3"}


def test_weights_that_are_not_raw_become_external_too(tmp_path):
    proto = disk.network()
    values = numpy_helper.to_array(proto.graph.initializer[2])
    proto.graph.initializer[2].CopyFrom(
        helper.make_tensor("w2", TensorProto.FLOAT, values.shape, values.ravel().tolist())
    )
    assert not proto.graph.initializer[2].HasField("raw_data")
    write_model(Model(proto, external=True), tmp_path / "out.onnx")
    np.testing.assert_array_equal(load(tmp_path / "out.onnx").array("w2"), values)


def test_large_models_become_external(tmp_path, model, monkeypatch):
    monkeypatch.setattr(output, "EXTERNAL_ABOVE", 10_000)
    write_model(model, tmp_path / "out.onnx")
    assert_same_weights(model, load(tmp_path / "out.onnx"))
    assert (tmp_path / "out.onnx.data").exists()


def test_a_model_with_data_can_be_written_again(tmp_path, external):
    write_model(external, tmp_path / "out.onnx")
    external.set_array("w2", external.array("w2") * 2)
    write_model(external, tmp_path / "out.onnx")
    assert_same_weights(external, load(tmp_path / "out.onnx"))


@pytest.mark.parametrize("name", ["notes.json", "notes.textproto", "notes.txt", "notes.onnx"])
def test_a_file_that_names_the_data_is_no_model(tmp_path, external, name):
    write_model(external, tmp_path / "out.onnx")
    (tmp_path / name).write_text('{"weights": "out.onnx.data"}')
    external.set_array("w2", external.array("w2") * 2)
    write_model(external, tmp_path / "out.onnx")
    assert sorted(p.name for p in tmp_path.iterdir() if "data" in p.name) == ["out.onnx.2.data"]
    assert_same_weights(external, load(tmp_path / "out.onnx"))


@pytest.mark.parametrize("end", ["onnx", "json", "textproto"])
def test_data_that_another_model_uses_stay(tmp_path, external, end):
    write_model(external, tmp_path / "out.onnx")
    other = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    onnx.save(other, tmp_path / f"other.{end}")
    write_model(external, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()


def test_another_models_data_is_not_touched(tmp_path, external):
    (tmp_path / "out.onnx.data").write_text("of somebody else")
    write_model(external, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_text() == "of somebody else"
    assert data_files(tmp_path / "out.onnx") == {tmp_path / "out.onnx.2.data"}
    assert_same_weights(external, load(tmp_path / "out.onnx"))


def test_the_inputs_data_is_not_touched(tmp_path):
    """The input's data file has the name that the output's would get."""
    given = disk.save_external(disk.network(), tmp_path / "model.onnx", location="out.onnx.data")
    (tmp_path / "out.onnx").write_bytes(Path(given).read_bytes())
    before = disk.tree(tmp_path)
    write_model(load(given), tmp_path / "out.onnx", inputs=[given])
    after = disk.tree(tmp_path)
    assert {n: after[n] for n in before if n != "out.onnx"} == {
        n: b for n, b in before.items() if n != "out.onnx"
    }
    assert_same_weights(load(given), load(tmp_path / "out.onnx"))


def test_a_model_that_is_replaced_takes_its_data_along(tmp_path, external):
    for factor in (1, 2, 3):
        external.set_array("w2", external.array("w2") * factor)
        write_model(external, tmp_path / "out.onnx")
        assert_same_weights(external, load(tmp_path / "out.onnx"))
        assert len(list(tmp_path.glob("*.data"))) == 1
    external.external = False
    write_model(external, tmp_path / "out.onnx")
    assert not list(tmp_path.glob("*.data"))


KILLED = """
import os, sys
from pathlib import Path
from onnxprune.ir import load
from onnxprune.ir.output import write_model

source, target, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = load(source)
model.set_array("w2", model.array("w2") * 2)
done, steps = [0], {name: getattr(Path, name) for name in ("replace", "unlink")}

def counted(name):
    def step(self, *args, **how):
        if done[0] == last:
            os._exit(9)
        done[0] += 1
        return steps[name](self, *args, **how)
    return step

for name in steps:
    setattr(Path, name, counted(name))
write_model(model, target)
os._exit(done[0])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_model_with_its_own_data(tmp_path, external):
    write_model(external, tmp_path / "source.onnx")
    before = external.array("w2").copy()
    seen = set()
    for last in range(4):
        write_model(external, tmp_path / "out.onnx")
        words = [sys.executable, "-c", KILLED, tmp_path / "source.onnx", tmp_path / "out.onnx", str(last)]
        code = subprocess.run(words, check=False).returncode
        found = load(tmp_path / "out.onnx").array("w2")
        assert np.array_equal(found, before) or np.array_equal(found, before * 2)
        seen.add((code, bool(np.array_equal(found, before))))
    assert seen == {(9, True), (9, False), (3, False)}


# --- or not at all


def test_a_model_that_does_not_load_is_not_written(tmp_path, model):
    model.proto.graph.node[0].op_type = "Celu"  # of one operand
    with pytest.raises(ModelError, match="the result was not written"):
        write_model(model, tmp_path / "out.onnx")
    assert disk.tree(tmp_path) == {}


def test_a_model_that_does_not_run_is_written_beside_its_place(tmp_path, model):
    """Valid as far as can be seen, but the target of the Reshape never fits its operand."""
    model.proto.graph.node[5].CopyFrom(helper.make_node("Reshape", ["e", "target"], ["f"], name="flatten"))
    model.add_constant("target", np.array([7, 23], np.int64))
    model.set_array("w3", np.zeros((4, 23), np.float32))
    with pytest.raises(UnverifiedError, match=r"out\.unverified\.onnx"):
        write_model(model, tmp_path / "out.onnx")
    assert list(disk.tree(tmp_path)) == ["out.unverified.onnx"]


def test_a_model_runs_with_the_shapes_given(tmp_path):
    """It takes pictures of 5 by 7 and no others."""
    text = disk.TEXT.replace("[N, 3, 8, 8]", "[N, 3, H, W]")
    proto = disk.network(text)
    proto.graph.node[5].CopyFrom(helper.make_node("Flatten", ["d"], ["f"], name="flatten"))
    tensor = next(t for t in proto.graph.initializer if t.name == "w3")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros((4, 24 * 5 * 7), np.float32), "w3"))
    model = check(Model(proto))
    with pytest.raises(UnverifiedError):
        write_model(model, tmp_path / "out.onnx", shapes={"image": (1, 3, 6, 6)})
    write_model(model, tmp_path / "out.onnx", shapes={"image": (1, 3, 5, 7)})
    assert load(tmp_path / "out.onnx").proto == proto


@pytest.mark.parametrize("when", ["write", "flush", "rename"])
@pytest.mark.parametrize("external", [False, True])
def test_a_failing_disk_keeps_the_former_file(tmp_path, monkeypatch, when, external):
    first = Model(disk.network(), external=external)
    write_model(first, tmp_path / "out.onnx")
    before = disk.tree(tmp_path)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    owner, name = {"write": (Path, "write_bytes"), "flush": (os, "fsync"), "rename": (Path, "replace")}[when]
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write_model(first, tmp_path / "out.onnx")
    assert caught.value.hint
    with pytest.raises(OutputError, match="No space left on device"):
        write_text(tmp_path / "out.json", "{}")
    assert disk.tree(tmp_path) == before


@pytest.mark.parametrize("first_time", [False, True])
def test_data_goes_back_if_its_model_cannot_take_its_place(tmp_path, external, monkeypatch, first_time):
    if not first_time:
        write_model(external, tmp_path / "out.onnx")
    before = disk.tree(tmp_path)
    external.set_array("w2", external.array("w2") * 2)
    replace = Path.replace

    def fail_for_the_model(self, target):
        if target.name == "out.onnx":
            raise PermissionError(1, "Operation not permitted")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_for_the_model)
    with pytest.raises(OutputError, match="Operation not permitted"):
        write_model(external, tmp_path / "out.onnx")
    assert disk.tree(tmp_path) == before


def test_an_interruption_leaves_nothing(tmp_path, model, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "_try", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_model(model, tmp_path / "out.onnx")
    assert disk.tree(tmp_path) == {}


# --- places


def test_a_good_place_is_resolved(tmp_path):
    (tmp_path / "folder").mkdir()
    assert check_output(tmp_path / "folder" / ".." / "out.onnx") == tmp_path / "out.onnx"


def test_an_input_that_is_not_there_yet_is_no_reason_to_refuse(tmp_path):
    assert (
        check_output(tmp_path / "out.onnx", [tmp_path / "none", "module:callable"]) == tmp_path / "out.onnx"
    )


@pytest.mark.parametrize("name", [".", "none/out.onnx", "file/out.onnx", "loop"])
def test_places_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / name)
    assert caught.value.hint


def test_inputs_are_recognised_however_they_are_spelled(tmp_path):
    given = tmp_path / "in.onnx"
    given.write_text("")
    (tmp_path / "hard.onnx").hardlink_to(given)
    (tmp_path / "soft.onnx").symlink_to(given)
    for name in ("in.onnx", "hard.onnx", "soft.onnx", "./in.onnx"):
        with pytest.raises(OutputError, match="is an input"):
            check_output(f"{tmp_path}/{name}", [given])


def test_the_size_of_absent_files(tmp_path):
    with pytest.raises(ModelError):
        stored_bytes(tmp_path / "none.onnx")
