"""Writes, replacements and deletions of commands: never of their inputs or of foreign files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

import click
import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.app.cli import program
from onnxprune.app.cli.command_options import Reads, Writes
from onnxprune.app.runner.journal import open_journal, read_state
from onnxprune.errors import ModelError, OnnxpruneError, OutputError, UsageError
from onnxprune.ir import Model, load
from onnxprune.ir.output import write_model, write_text
from onnxprune.support.locks import Lock
from onnxprune.support.path_guard import check_places
from onnxprune.support.staging import MARK, scratch_folder, sweep

MODULE = """
import numpy as np
def batches():
    yield {"image": np.zeros((8, 3, 8, 8), np.float32)}, {"labels": np.zeros(8, np.int64)}
def score(outputs, targets):
    return 1.0
"""
LOSS = """
<ir_version: 8, opset_import: ["" : 17]>
loss (float[N, 4] logits, int64[N] labels) => (float loss) { loss = ReduceMean <keepdims = 0> (logits) }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every kind of input: a model with external data, shards, a module, text files, a run."""
    monkeypatch.chdir(tmp_path)
    network = disk.network()
    disk.save_external(network, tmp_path / "model.onnx")
    disk.save_external(network, tmp_path / "other.onnx", "other.bin")
    disk.save(onnx.parser.parse_model(LOSS), tmp_path / "loss.onnx")
    (tmp_path / "shards").mkdir()
    for name in "ab":
        disk.save_data(tmp_path / "shards" / f"{name}.npz", **disk.samples())
    disk.save_data(tmp_path / "data.npz", **disk.samples())
    (tmp_path / "loader.py").write_text(MODULE)
    (tmp_path / "inner").mkdir()
    for name in ("__init__", "metric"):
        (tmp_path / "inner" / f"{name}.py").write_text(MODULE)
    (tmp_path / "text.json").write_text("{}")
    (tmp_path / "work" / "iteration-1").mkdir(parents=True)
    for name in ("state.json", ".lock", "dense.onnx", "iteration-1/tuned.onnx", "iteration-1/analysis.json"):
        (tmp_path / "work" / name).write_text("{}")
    return tmp_path


READS = {  # for each command: the words that name an input, and the files that belong to it
    "ana": {
        ("model.onnx",): ("model.onnx", "weights.bin"),
        ("--data", "data.npz"): ("data.npz",),
        ("--data", "shards"): ("shards/a.npz", "shards/b.npz"),
        ("--data", "loader:batches"): ("loader.py",),
        ("--data", "inner.metric:batches"): ("inner/__init__.py", "inner/metric.py"),
        ("--metric", "inner.metric:score"): ("inner/__init__.py", "inner/metric.py"),
        ("--against", "text.json"): ("text.json",),
    },
    "prune": {
        ("model.onnx",): ("model.onnx", "weights.bin"),
        ("--data", "shards"): ("shards/a.npz", "shards/b.npz"),
        ("--metric", "loader:score"): ("loader.py",),
        ("--analysis", "text.json"): ("text.json",),
        ("--plan", "text.json"): ("text.json",),
        ("--limits", "text.json"): ("text.json",),
    },
    "recover": {
        ("model.onnx",): ("model.onnx", "weights.bin"),
        ("--original", "other.onnx"): ("other.onnx", "other.bin"),
        ("--data", "shards"): ("shards/b.npz",),
        ("--val", "data.npz"): ("data.npz",),
        ("--metric", "loader:score"): ("loader.py",),
    },
    "finetune": {
        ("model.onnx",): ("model.onnx", "weights.bin"),
        ("--data", "shards"): ("shards/a.npz",),
        ("--val", "loader:batches"): ("loader.py",),
        ("--metric", "inner.metric:score"): ("inner/metric.py",),
        ("--teacher", "other.onnx"): ("other.onnx", "other.bin"),
        ("--original", "other.onnx"): ("other.onnx", "other.bin"),
        ("--loss", "0.5*mse + 2*loss.onnx"): ("loss.onnx",),
        ("--loss", "mse + loader:batches"): ("loader.py",),
    },
    "transform": {
        ("model.onnx",): ("model.onnx", "weights.bin"),
        ("--data", "shards"): ("shards/a.npz", "shards/b.npz"),
        ("--data", "loader:batches"): ("loader.py",),
    },
    "init": {
        ("model.onnx",): ("model.onnx", "weights.bin"),
        ("--data", "data.npz"): ("data.npz",),
        ("--data", "shards"): ("shards/a.npz",),
        ("--val", "loader:batches"): ("loader.py",),
    },
    "report": {
        ("work",): (
            *("work/state.json", "work/.lock", "work/dense.onnx"),
            *("work/iteration-1/tuned.onnx", "work/iteration-1/analysis.json"),
        ),
        ("--against", "work"): ("work/state.json", "work/iteration-1/tuned.onnx"),
    },
}
WRITES = {
    "ana": ("-o", "--figure"),
    "prune": ("-o", "--plan-out", "--trials", "--figure"),
    "recover": ("-o",),
    "finetune": ("-o", "--checkpoint"),
    "transform": ("-o",),
    "init": ("-o",),
    "report": ("-o",),
}
NEEDED = {
    "ana": {"model": "model.onnx", "--data": "data.npz", "-o": "out.json"},
    "prune": {"model": "model.onnx", "--reduce-macs": "0.5", "-o": "out.onnx"},
    "recover": {"model": "model.onnx", "--original": "other.onnx", "-o": "out.onnx"},
    "finetune": {"model": "model.onnx", "--data": "data.npz", "-o": "out.onnx"},
    "transform": {"model": "model.onnx", "-o": "out.onnx"},
    "init": {"model": "model.onnx", "-o": "out.toml"},
    "report": {"model": "work", "-o": "out.html"},
}
CASES = [
    (command, given, option, file)
    for command, inputs in READS.items()
    for given, files in inputs.items()
    for option in WRITES[command]
    for file in files
]


def words_of(command: str, given: tuple[str, ...], option: str, file: str) -> list[str]:
    options = dict(NEEDED[command])
    options |= {given[0]: given[1]} if len(given) == 2 else {"model": given[0]}
    options[option] = file
    model = options.pop("model")
    force = ["--force"] if command in ("init", "ana") else []
    return [command, model, *force, *(w for pair in options.items() for w in pair)]


@pytest.mark.parametrize(("command", "given", "option", "file"), CASES)
def test_no_command_overwrites_its_inputs(
    folder: Path, command: str, given: tuple[str, ...], option: str, file: str
) -> None:
    before = disk.tree(folder)
    said = disk.run(*words_of(command, given, option, file)).refused()
    assert file in said
    assert disk.tree(folder) == before


@pytest.mark.parametrize("link", ["soft", "hard", "around"])
@pytest.mark.parametrize("file", ["model.onnx", "weights.bin", "shards/a.npz"])
def test_other_names_of_an_input_are_seen_through(folder: Path, link: str, file: str) -> None:
    name = folder / "alias.onnx"
    if link == "soft":
        name.symlink_to(folder / file)
    elif link == "hard":
        name.hardlink_to(folder / file)
    else:
        name = folder / "inner" / ".." / file
    before = disk.tree(folder)
    disk.run("transform", "model.onnx", "--data", "shards", "-o", name).refused()
    assert disk.tree(folder) == before


PAIRS = [(c, one, two) for c, options in WRITES.items() for one in options for two in options if one < two]


@pytest.mark.parametrize(("command", "one", "two"), PAIRS)
@pytest.mark.parametrize("there", [False, True])
def test_no_command_writes_two_results_to_one_file(
    folder: Path, command: str, one: str, two: str, there: bool
) -> None:
    options = NEEDED[command] | {one: "same.svg", two: "./same.svg"}
    if there:
        (folder / "same.svg").write_text("mine")
    before = disk.tree(folder)
    model = options.pop("model")
    said = disk.run(command, model, *(w for pair in options.items() for w in pair)).refused()
    assert "the same file" in said
    assert disk.tree(folder) == before


@pytest.mark.parametrize("command", ["prune", "transform"])
def test_an_output_does_not_become_a_shard(folder: Path, command: str) -> None:
    options = {**NEEDED[command], "--data": "shards", "-o": "shards/c.npz"}
    model = options.pop("model")
    said = disk.run(command, model, *(w for pair in options.items() for w in pair)).refused()
    assert "would become a shard" in said


@pytest.mark.parametrize("file", ["work/state.json", "work/.lock", "work/iteration-1/tuned.onnx"])
def test_a_run_is_not_overwritten_by_other_commands(folder: Path, file: str) -> None:
    before = disk.tree(folder)
    assert (
        "belongs to the run in" in disk.run("prune", "model.onnx", "--reduce-macs", 0.3, "-o", file).refused()
    )
    assert disk.tree(folder) == before


def test_a_page_beside_a_run_may_be_replaced(folder: Path) -> None:
    (folder / "work" / "report.html").write_text("before")
    check_places({"-o": "work/report.html"}, ["work"])


@pytest.mark.parametrize("reads", ["work/dense.onnx", "work/iteration-1/tuned.onnx"])
def test_a_run_does_not_read_its_outputs(folder: Path, reads: str) -> None:
    shutil.copy("data.npz", "val.npz")
    text = (
        f"model = '{reads}'\nfolder = 'work'\nmetric = 'top1'\n[data]\ntrain = 'data.npz'\nval = 'val.npz'\n"
    )
    (folder / "recipe.toml").write_text(text + "[budget]\nreduce_macs = 0.3\n")
    before = disk.tree(folder)
    assert "the run itself writes" in disk.run("run", "recipe.toml").refused()
    assert disk.tree(folder) == before


FOLDERS = {("report", "place"), ("run", "folder"), ("setup-training", "folder")}
"""Options that name folders to write into."""


@pytest.mark.parametrize("name", program.commands)
def test_every_path_of_every_command_is_guarded(name: str) -> None:
    """An option that names a file says which way it goes; so does one that may name a module."""
    for parameter in program.commands[name].params:
        kind, said = parameter.type, str(parameter.name)
        if isinstance(kind, click.Path) and (name, said) not in FOLDERS:
            assert isinstance(kind, Reads | Writes), f"{name} {said}"
        if said in ("data", "val", "metric", "loss", "calibration"):
            assert isinstance(kind, Reads), f"{name} {said}"


# --- data without an end


PIPES = [(c, g) for c, inputs in READS.items() for g in inputs if ":" not in g[-1] and "*" not in g[-1]]


@pytest.mark.skipif(os.name != "posix", reason="named pipes are those of POSIX")
@pytest.mark.parametrize(("command", "given"), PIPES)
def test_no_command_waits_at_a_pipe(folder: Path, command: str, given: tuple[str, ...]) -> None:
    os.mkfifo(folder / "pipe")
    given = (*given[:-1], "pipe")
    said = disk.run(*words_of(command, given, "-o", NEEDED[command]["-o"])).refused()
    assert "pipe is not a regular file" in said


@pytest.mark.skipif(os.name != "posix", reason="named pipes are those of POSIX")
@pytest.mark.parametrize(
    "command", ["ana", "prune", "transform", "finetune", "recover", "init", "verify", "bench"]
)
def test_no_command_waits_at_a_pipe_among_shards(folder: Path, command: str) -> None:
    os.mkfifo(folder / "shards" / "c.npz")
    more = {"verify": ["model.onnx"], "bench": ["--metric", "top1"], "prune": ["--criterion", "activation"]}
    needed = dict(NEEDED.get(command, {}))
    needed.pop("model", None)
    options = {**needed, "--data": "shards"}
    words = [command, "model.onnx", *more.get(command, []), *(w for pair in options.items() for w in pair)]
    assert "c.npz is not a regular file" in disk.run(*words).refused()


# --- checkpoints


@pytest.mark.parametrize("content", [b"my diary", b"", None])
def test_a_file_that_is_no_checkpoint_is_not_taken_for_one(folder: Path, content: bytes | None) -> None:
    if content is None:
        np.savez(folder / "mine.npz", image=np.zeros(3))
        (folder / "mine.npz").rename(folder / "mine")
    else:
        (folder / "mine").write_bytes(content)
    before = disk.tree(folder)
    words = ("finetune", "model.onnx", "--data", "data.npz", "--checkpoint", "mine", "-o", "out.onnx")
    assert "no checkpoint" in disk.run(*words).refused(2)
    assert "no checkpoint" in disk.run(*words, "--resume").refused(2)
    assert disk.tree(folder) == before


# --- data files


@pytest.fixture
def external(tmp_path: Path) -> Model:
    (tmp_path / "given").mkdir()
    return load(disk.save_external(disk.network(), tmp_path / "given" / "model.onnx"))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file())


@pytest.mark.parametrize("location", ["../precious/out.onnx.data", "out.onnx.data", "sub/out.onnx.data"])
def test_data_this_program_has_not_written_stays(tmp_path: Path, external: Model, location: str) -> None:
    """A model of a stranger names another file as its data."""
    project = tmp_path / "project"
    for place in (project / "sub", tmp_path / "precious"):
        place.mkdir(parents=True)
    victim = (project / location).resolve()
    victim.write_bytes(b"years of work")
    proto = disk.network()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    disk.save(proto, project / "out.onnx")
    write_model(external, project / "out.onnx")
    assert victim.read_bytes() == b"years of work"
    assert load(project / "out.onnx").external


@pytest.mark.parametrize("other", ["best.onnx", "best", "../best.onnx"])
def test_data_another_model_uses_stays(tmp_path: Path, external: Model, other: str) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write_model(external, folder / "work.onnx")
    shutil.copy(folder / "work.onnx", folder / other)
    if other.startswith(".."):
        proto = onnx.load(folder / other, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "project/work.onnx.data"
        disk.save(proto, folder / other)
    before = external.array("w2").copy()
    for _ in range(3):
        external.set_array("w2", external.array("w2") * 2)
        write_model(external, folder / "work.onnx")
    np.testing.assert_array_equal(load(folder / other).array("w2"), before)
    assert len(list(folder.glob("*.data"))) == 2


def test_data_a_kill_has_left_goes_with_the_next_write(tmp_path: Path, external: Model) -> None:
    write_model(external, tmp_path / "out.onnx")
    (tmp_path / "out.onnx").unlink()  # as if it had been killed in between
    write_model(external, tmp_path / "out.onnx")
    assert len(list(tmp_path.glob("*.data"))) == 1


def test_data_of_a_process_at_work_stays(tmp_path: Path, external: Model) -> None:
    write_model(external, tmp_path / "out.onnx")
    (tmp_path / "out.onnx").rename(tmp_path / "elsewhere.onnx")
    (tmp_path / "elsewhere.onnx").unlink()
    with scratch_folder(tmp_path):
        write_model(external, tmp_path / "out.onnx")
    assert len(list(tmp_path.glob("*.data"))) == 2


@pytest.mark.parametrize("kind", ["link", "folder", "unmarked"])
def test_foreign_files_with_the_name_of_data_stay(tmp_path: Path, external: Model, kind: str) -> None:
    write_model(external, tmp_path / "out.onnx")
    mine = tmp_path / "out.onnx.7.data"
    if kind == "link":
        shutil.copy(tmp_path / "out.onnx.data", tmp_path / "copy")
        mine.symlink_to(tmp_path / "copy")
    elif kind == "folder":
        mine.mkdir()
    else:
        mine.write_bytes(b"mine")
    write_model(external, tmp_path / "out.onnx")
    assert mine.is_symlink() or mine.exists()


# --- external data is read from the model's folder


def in_function() -> onnx.ModelProto:
    constant = helper.make_node(
        "Constant", [], ["k"], value=numpy_helper.from_array(np.ones(1, np.float32), "k")
    )
    add = helper.make_node("Add", ["x", "k"], ["y"])
    function = helper.make_function("own", "f", ["x"], ["y"], [constant, add], [helper.make_opsetid("", 17)])
    node = helper.make_node("f", ["x"], ["y"], domain="own")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)


@pytest.mark.parametrize("location", ["k.bin", "../k.bin"])
def test_data_of_a_function_comes_from_the_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    proto = in_function()
    tensor = proto.functions[0].node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    for name, value in (("model", 5.0), ("current", 7.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "k.bin").write_bytes(np.array([value], np.float32).tobytes())
    disk.save(proto, tmp_path / "model" / "model.onnx")
    monkeypatch.chdir(tmp_path / "current")
    if location.startswith(".."):
        with pytest.raises(ModelError, match="outside"):
            load(tmp_path / "model" / "model.onnx")
        return
    found = load(tmp_path / "model" / "model.onnx").proto
    assert np.float32(5.0).tobytes() in found.SerializeToString()
    assert np.float32(7.0).tobytes() not in found.SerializeToString()


# --- states of strangers


def stranger(folder: Path, files: dict[str, str], **header: object) -> Path:
    folder.mkdir(exist_ok=True)
    step = {"inputs": {}, "files": files, "facts": {}, "duration_s": 1.0}
    state = {"format": 1, "recipe": {}, "threads": 1, "result": None, "steps": {"old": step}, **header}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("../victim.txt", "/etc/hostname", "iteration-1/../../victim.txt", "victim.txt", "", ".", ".."),
        *(
            "iteration-1/sub/tuned.onnx",
            "iteration-1",
            "C:\\victim",
            "./state.json",
            "iteration-x/tuned.onnx",
        ),
        *("/dev/zero", "iteration-1/..", "a\0b", "iteration-1/tuned.onnx\n"),
    ],
)
def test_a_state_names_only_files_a_run_writes(tmp_path: Path, name: str) -> None:
    work = stranger(tmp_path / "work", {name: "0" * 64})
    (tmp_path / "victim.txt").write_text("mine")
    with pytest.raises(UsageError, match="no run writes"):
        read_state(work)
    with pytest.raises(UsageError, match="no run writes"), open_journal(work, lambda event: None):
        pass
    assert (tmp_path / "victim.txt").read_text() == "mine"


@pytest.mark.parametrize("change", ["other content", "link", "folder"])
def test_only_files_as_a_run_left_them_are_deleted(tmp_path: Path, change: str) -> None:
    work = stranger(tmp_path / "work", {"iteration-1/tuned.onnx": "0" * 64})
    (work / "iteration-1").mkdir()
    mine = work / "iteration-1" / "tuned.onnx"
    if change == "folder":
        mine.mkdir()
    else:
        mine.write_text("mine")
    with open_journal(work, lambda event: None) as journal:
        if change == "link":
            mine.rename(tmp_path / "mine")
            mine.symlink_to(tmp_path / "mine")
        assert journal.forget_others() == ["old"]
    assert mine.exists()


@pytest.mark.parametrize(
    "link", ["iteration-1", "iteration-1/tuned.onnx", "dense.onnx", "report.html", "state.json"]
)
def test_no_link_leads_a_run_out_of_its_folder(tmp_path: Path, link: str) -> None:
    work = stranger(tmp_path / "work", {})
    target = tmp_path / "precious"
    if link == "iteration-1":
        target.mkdir()
    elif link == "state.json":
        (work / link).rename(target)
    else:
        target.write_text("mine")
    (work / link).parent.mkdir(exist_ok=True)
    (work / link).symlink_to(target)
    with pytest.raises(UsageError, match="is a link"), open_journal(work, lambda event: None):
        pass


@pytest.mark.skipif(os.name != "posix", reason="named pipes are those of POSIX")
@pytest.mark.parametrize(
    "pipe", ["state.json", "dense.onnx", "iteration-1", "iteration-1/tuned.onnx", "report.html", ".lock"]
)
def test_no_run_waits_at_a_pipe_in_its_folder(tmp_path: Path, pipe: str) -> None:
    work = stranger(tmp_path / "work", {"dense.onnx": "0" * 64})
    (work / pipe).unlink(missing_ok=True)
    (work / pipe).parent.mkdir(exist_ok=True)
    os.mkfifo(work / pipe)
    with pytest.raises(OnnxpruneError), open_journal(work, lambda event: None) as journal:
        journal.save()
    if pipe == "state.json":
        assert "not a regular file" in disk.run("report", work, "-o", tmp_path / "page.html").refused()


@pytest.mark.parametrize(
    "change",
    [
        *({"steps": []}, {"steps": {"a": 1}}, {"steps": {"a": {"inputs": {}}}}, {"threads": "many"}),
        *({"threads": 0}, {"threads": 10**9}, {"result": [1]}, {"format": 2}, {"steps": None}),
    ],
)
def test_states_that_no_run_has_written(tmp_path: Path, change: dict[str, object]) -> None:
    work = stranger(tmp_path / "work", {}, **change)
    with pytest.raises(UsageError):
        read_state(work)


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"), open_journal(tmp_path, lambda event: None):
        pass
    assert names(tmp_path) == ["diary.txt"]


# --- scratch folders and locks


def test_scratch_folders_of_others_stay(tmp_path: Path) -> None:
    for name, lock in (("plain", None), ("emptylock", b""), ("otherlock", b"mine"), ("short", MARK)):
        place = tmp_path / f".onnxprune-{name[:8].ljust(8, '_') if name != 'short' else 'short'}"
        place.mkdir()
        (place / "work.txt").write_text("mine")
        if lock is not None:
            (place / ".lock").write_bytes(lock)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".lock").write_bytes(MARK)
    (tmp_path / ".onnxprune-linked__").symlink_to(elsewhere)
    before = disk.tree(tmp_path)
    sweep(tmp_path)
    with scratch_folder(tmp_path):
        pass
    assert disk.tree(tmp_path) == before


@pytest.mark.parametrize("left", ["nothing", "empty lock", "mark"])
def test_scratch_folders_a_kill_has_left_go(tmp_path: Path, left: str) -> None:
    place = tmp_path / ".onnxprune-abcd_123"
    place.mkdir()
    if left == "empty lock":
        (place / ".lock").write_bytes(b"")
    elif left == "mark":
        (place / ".lock").write_bytes(MARK)
        (place / "half.onnx").write_bytes(b"half")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="links are those of POSIX")
@pytest.mark.parametrize("planted", ["link", "pipe", "folder"])
def test_a_planted_lock_changes_nothing(tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    for place in (tmp_path / ".onnxprune-abcd_123", tmp_path / "work"):
        place.mkdir()
        if planted == "link":
            (place / ".lock").symlink_to(victim)
        elif planted == "pipe":
            os.mkfifo(place / ".lock")
        else:
            (place / ".lock").mkdir()
    sweep(tmp_path)
    with pytest.raises(OSError, match=r"lock"):
        Lock(tmp_path / "work" / ".lock")
    with pytest.raises((OutputError, UsageError)), open_journal(tmp_path / "work", lambda event: None):
        pass
    assert victim.read_text() == "mine"


def test_a_lock_is_taken_once(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / ".lock"), Lock(tmp_path / ".lock")
    assert first.take()
    assert not second.take()
    first.release()
    assert second.take()
    second.release()


# --- modes and owners


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664, 0o755])
@pytest.mark.parametrize("is_external", [False, True])
def test_a_replaced_file_keeps_its_mode(
    tmp_path: Path, external: Model, mode: int, is_external: bool
) -> None:
    external.external = is_external
    (tmp_path / "out.onnx").write_bytes(b"before")
    (tmp_path / "out.json").write_text("before")
    for name in ("out.onnx", "out.json"):
        (tmp_path / name).chmod(mode)
    write_model(external, tmp_path / "out.onnx")
    write_text(tmp_path / "out.json", "after")
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("out*")} == {mode}


@pytest.mark.skipif(os.name != "posix" or bool(os.geteuid()), reason="only root may give files away")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path, external: Model) -> None:
    (tmp_path / "out.onnx").write_bytes(b"before")
    os.chown(tmp_path / "out.onnx", 1234, 5678)
    write_model(external, tmp_path / "out.onnx")
    found = {(p.stat().st_uid, p.stat().st_gid) for p in tmp_path.glob("out*")}
    assert found == {(1234, 5678)}


@pytest.mark.skipif(os.name != "posix" or bool(os.geteuid()), reason="only root may become another user")
def test_a_file_of_another_user_is_not_taken_over() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        (folder / "out.json").write_text("before")
        folder.chmod(0o777)
        os.seteuid(1234)
        try:
            with pytest.raises(OutputError, match="another user"):
                write_text(folder / "out.json", "after")
        finally:
            os.seteuid(0)
        assert names(folder) == ["out.json"]
        assert (folder / "out.json").read_text() == "before"
