from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from helpers import Net

from onnxprune.app.cli import program
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import PLAN_KEY, Analysis
from onnxprune.ir import load


@pytest.fixture
def model(tmp_path):
    return disk.save(disk.network(), tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path):
    return disk.save_data(tmp_path / "data.npz", **disk.samples())


@pytest.fixture
def sparse(tmp_path, model):
    path = tmp_path / "sparse.onnx"
    assert disk.run("prune", model, "--reduce-macs", 0.5, "-o", path).code == 0
    return str(path)


@pytest.fixture
def dense(tmp_path, sparse):
    path = tmp_path / "dense.onnx"
    assert disk.run("transform", sparse, "-o", path).code == 0
    return str(path)


def shell(*words, **how):
    command = [sys.executable, "-m", "onnxprune", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **how)
    return disk.Outcome(done.returncode, done.stdout, done.stderr)


# --- inspect


def test_inspect_lists_groups_and_blocked_axes(model):
    facts = disk.run("inspect", model, "--json").facts
    first, second = facts["groups"]
    assert first["name"] == "conv1"
    assert first["size"] == 16
    assert first["nodes"] == ["conv1", "conv2"]
    assert first["tensors"] == [
        {"tensor": "w1", "axis": 0, "weight": True},
        {"tensor": "b1", "axis": 0, "weight": True},
        {"tensor": "w2", "axis": 1, "weight": True},
    ]
    assert (first["optional"], first["selected"]) == (False, True)
    assert second["name"] == "conv2"
    assert second["size"] == 24
    conv1, conv2, head = 3 * 16 * 9 * 64, 16 * 24 * 9 * 64, 24 * 4
    assert facts["macs"] == conv1 + conv2 + head
    assert first["macs"] == conv1 + conv2
    assert second["macs"] == conv2 + head
    assert facts["params"] == 16 * 27 + 16 + 24 * 16 * 9 + 24 + 24 * 4 + 4
    assert first["params"] == 16 * 27 + 16 + 24 * 16 * 9
    assert facts["channels"] == 40
    assert facts["size_bytes"] == Path(model).stat().st_size
    reasons = {(b["tensor"], b["axis"]): b["reasons"] for b in facts["blocked"]}
    assert reasons["w3", 0] == [
        {"operator": "graph output", "node": "logits", "reason": "the caller reads it (--open-io opens it)"}
    ]
    assert reasons["w1", 2][0]["operator"] == "Conv"


def test_inspect_shows_the_same_facts_as_text(model):
    said = disk.run("inspect", model, "--all").out
    for word in ("conv1", "conv2", "w2[1]", "w3[0]", "the caller reads it", "40 channels"):
        assert word in said
    assert "of the parameters and 100 % of the MACs in reach" in " ".join(said.split())


def test_inspect_needs_one_line_for_all_that_is_alike(tmp_path):
    net = Net()
    x = net.conv(net.input("image", ["N", 3, 8, 8]), 16)
    for _ in range(6):
        x = net.add(x, net.conv(net.relu(net.conv(x, 24)), 16))
    place = disk.save(net.proto(net.head(x)), tmp_path / "deep.onnx")
    short, long = (disk.run("inspect", place, *more).out.splitlines() for more in ((), ("--all",)))
    assert len(short) < 15
    assert len(long) > 30
    assert any("and 5 like it" in line for line in short)
    assert len(disk.run("inspect", place, "--json").facts["groups"]) == 7


def test_inspect_shows_long_equations_in_short_and_with_all_as_they_are(tmp_path):
    steps, last = [], "n"
    for k in range(12):
        steps.append(f"a{k} = Add({last}, four) b{k} = Div(a{k}, four) c{k} = Mul(b{k}, three)")
        last = f"c{k}"
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x, float[1, M] y) => (float[a, b] z)
        <int64[1] three = {{3}}, int64[1] four = {{4}}, int64[1] one = {{1}}> {{
        n = Shape<start = 0, end = 1>(x)  {" ".join(steps)}
        m = Shape<start = 1, end = 2>(y)  square = Mul(m, m)
        wide = Concat<axis = 0>(one, {last})  high = Concat<axis = 0>(square, one)
        left = ConstantOfShape(wide)  right = ConstantOfShape(high)  z = MatMul(left, right) }}"""
    place = disk.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    (equation,) = disk.run("inspect", place, "--json").facts["sizes"]["equations"]
    short, every = (disk.run("inspect", place, *more).out for more in ((), ("--all",)))
    assert len(equation) > 150
    assert "".join(equation.split()) in "".join(every.replace("equation", "").split())
    start = short.index("equation")
    shown = " ".join(short[start : short.index("0 groups")].split())
    assert len(shown) < 150
    assert shown.endswith("= M**2 (node 'z': inner axes)")
    assert "…" in shown


def test_inspect_lists_the_removable_channels(model):
    def chosen(*words):
        facts = disk.run("inspect", model, "--json", *words).facts
        return [g["name"] for g in facts["groups"] if g["selected"]], facts["channels"]

    assert chosen() == (["conv1", "conv2"], 40)
    assert chosen("--exclude", "conv1") == (["conv2"], 24)
    assert chosen("--exclude", "conv2") == ([], 0)  # it makes one group and reads the other
    assert chosen("--exclude", "head") == (["conv1"], 16)
    assert chosen("--only", "head") == (["conv2"], 24)


def test_inspect_takes_names_that_look_like_markup(tmp_path):
    proto = disk.network()
    proto.graph.node[0].name = "[bold]x[/nonsense]"
    said = disk.run("inspect", disk.save(proto, tmp_path / "odd.onnx"))
    assert said.code == 0
    assert "[bold]x[/nonsense]" in said.out


def test_inspect_with_a_shape_of_ones_own(model):
    facts = disk.run("inspect", model, "--shape", "image=2x3x8x8", "--json").facts
    assert facts["input_shapes"] == {"image": [2, 3, 8, 8]}
    assert (
        facts["macs"] == disk.run("inspect", model, "--json").facts["macs"]
    )  # of one sample at any batch size


# --- prune


def test_prune_writes_a_sparse_model_with_its_plan(tmp_path, model):
    out = tmp_path / "sparse.onnx"
    facts = disk.run("prune", model, "--reduce-macs", 0.5, "--round-to", 1, "-o", out, "--json").facts
    sparse = load(out)
    assert facts["macs_reduction"] == pytest.approx(0.5, abs=0.02)
    assert facts["unchanged"] is False
    assert facts["size_bytes"] == out.stat().st_size
    plan = stored_plan(sparse)
    lost = {n: w["before"] - w["after"] for n, w in facts["groups"].items()}
    assert {n: len(r) for n, r in plan.removed.items()} == lost
    assert sparse.array("w1").shape == (16, 3, 3, 3)
    assert not sparse.array("w1")[list(plan.removed["conv1"])].any()


def test_prune_options_reach_the_pass(tmp_path, model):
    options = ["--reduce-channels", "0.15", "--strategy", "uniform", "--criterion", "random", "--seed", "7"]
    options += ["--round-to", "2", "--max-ratio", "0.6", "--exclude", "head", "--shape", "image=2x3x8x8"]
    done = disk.run("prune", model, *options, "-o", tmp_path / "sparse.onnx", "--json")
    assert done.facts["settings"] == {
        "reduce_channels": 0.15,
        "strategy": "uniform",
        "criterion": "random",
        "recover": [],
        "round_to": 2,
        "max_ratio": 0.6,
        "exclude": ["head"],
        "only": [],
        "seed": 7,
    }
    plan = stored_plan(load(tmp_path / "sparse.onnx"))
    assert set(plan.removed) == {"conv1"}
    assert plan.input_shapes == {"image": (2, 3, 8, 8)}


def test_prune_where_nothing_can_be_pruned(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }'
    model = disk.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    said = disk.run("prune", model, "--reduce-macs", 0.5, "-o", tmp_path / "out.onnx").refused()
    assert "nothing to prune" in said
    assert not (tmp_path / "out.onnx").exists()
    options = ("--allow-unchanged", "-o", tmp_path / "out.onnx")
    assert disk.run("prune", model, "--reduce-macs", 0.5, *options, "--json").facts["unchanged"] is True
    assert load(tmp_path / "out.onnx").proto == load(model).proto
    assert "copied" in disk.run("prune", model, "--reduce-macs", 0.5, *options).out


# --- ana


def test_ana_writes_curves_that_prune_reads(tmp_path, model, data):
    out = tmp_path / "analysis.json"
    words = ("--data", data, "--metric", "agreement", "--ratios", "0.25,0.5", "--exclude", "head")
    facts = disk.run("ana", model, *words, "-o", out, "--json").facts
    assert facts["baseline"] == 1
    assert list(facts["groups"]) == ["conv1"]
    assert facts["groups"]["conv1"]["ratios"] == [0.25, 0.5]
    analysis = Analysis.from_json(out.read_text())
    assert list(analysis.curves["conv1"].values) == facts["groups"]["conv1"]["values"]
    assert "(more is better)" in disk.run("ana", model, *words, "--force", "-o", out).out
    words = ("--analysis", out, "--reduce-macs", 0.1, "--exclude", "head", "-o", tmp_path / "sparse.onnx")
    assert disk.run("prune", model, *words, "--json").facts["settings"]["strategy"] == "sensitivity"


def test_ana_resumes_only_on_request(tmp_path, model, data):
    words = ("ana", model, "--data", data, "--ratios", "0.5", "-o", tmp_path / "analysis.json")
    assert disk.run(*words, "--json").facts["evaluations"] == 2
    assert "is there already" in disk.run(*words).refused(code=2)
    assert disk.run(*words, "--resume", "--json").facts["evaluations"] == 0
    assert disk.run(*words, "--force", "--json").facts["evaluations"] == 2
    assert "other options" in disk.run(*words, "--criterion", "l1", "--resume").refused()


def test_ana_draws_its_curves(tmp_path, model, data):
    pytest.importorskip("matplotlib")
    words = ("ana", model, "--data", data, "--ratios", "0.5", "--mode", "adaptive", "-o", tmp_path / "a.json")
    for name, start in (("curves.svg", b"<?xml"), ("curves.png", b"\x89PNG"), ("curves.pdf", b"%PDF")):
        facts = disk.run(*words, "--force", "--figure", tmp_path / name, "--json").facts
        assert facts["figure"] == str(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    (tmp_path / "a.json").unlink()
    assert "no form 'bmp'" in disk.run(*words, "--figure", tmp_path / "curves.bmp").refused(code=2)
    assert not (tmp_path / "a.json").exists()


def test_prune_draws_its_plan(tmp_path, model):
    pytest.importorskip("matplotlib")
    words = ("prune", model, "--reduce-macs", 0.3, "-o", tmp_path / "sparse.onnx")
    disk.run(*words, "--figure", tmp_path / "plan.png").out  # noqa: B018
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_ana_names_the_most_fragile(tmp_path, model, data):
    words = ("ana", model, "--data", data, "--ratios", "0.5", "-o", tmp_path / "analysis.json")
    facts = disk.run(*words, "--json").facts
    for curve in facts["groups"].values():
        assert 0 < curve["macs_share"] <= 1
    assert f"most fragile: {facts['most_fragile'][0]} (" in disk.run(*words, "--force").out


# --- transform, verify


def test_transform_writes_a_dense_model_that_agrees(tmp_path, sparse, data):
    out = tmp_path / "dense.onnx"
    facts = disk.run("transform", sparse, "--data", data, "--samples", 8, "-o", out, "--json").facts
    assert facts["equal"] is True
    assert facts["max_rel_error"] <= facts["allowed_rel_error"]
    assert facts["macs"] < facts["macs_before"]
    assert (
        facts["size_bytes"] == out.stat().st_size < facts["size_bytes_before"] == Path(sparse).stat().st_size
    )
    dense = load(out)
    assert dense.array("w1").shape[0] == facts["groups"]["conv1"]["after"]
    assert PLAN_KEY not in dense.metadata()


def test_transform_where_nothing_is_to_be_removed(tmp_path, model):
    out = tmp_path / "dense.onnx"
    assert "nothing to remove" in disk.run("transform", model, "-o", out).refused()
    facts = disk.run("transform", model, "--allow-unchanged", "-o", out, "--json").facts
    assert facts["unchanged"] is True
    assert out.exists()


def test_verify_accepts_the_same_network(sparse, dense, data):
    facts = disk.run("verify", sparse, dense, "--data", data, "--json").facts
    assert facts["equal"] is True
    assert facts["max_rel_error"] <= 1e-5
    assert "the models agree" in disk.run("verify", sparse, dense).out


def test_verify_refuses_another_network_with_its_error(tmp_path, sparse):
    proto = onnx.load(sparse)
    bias = next(t for t in proto.graph.initializer if t.name == "b3")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, 3, np.float32), "b3"))
    other = disk.save(proto, tmp_path / "other.onnx")
    assert "do not compute the same" in disk.run("verify", sparse, other).refused()
    done = disk.run("verify", sparse, other, "--json")
    assert done.code == 1
    assert done.facts["equal"] is False
    assert done.facts["max_rel_error"] > done.facts["allowed_rel_error"]
    assert done.err.startswith("error: ")


def test_verify_tells_a_pruned_model_from_a_defect(tmp_path, model, sparse, dense):
    """A pruned model differs from its original: that is no defect to report."""
    for pruned in (sparse, dense):
        said = disk.run("verify", model, pruned).refused()
        assert "is pruned" in said
        assert "`bench`" in said
        assert "report" not in said
    proto = onnx.load(sparse)
    proto.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.full(4, 3, np.float32), "b3"))
    other = disk.save(proto, tmp_path / "other.onnx")
    assert "please report this" in disk.run("verify", sparse, other).refused()


def test_infinite_errors_are_null_in_json(tmp_path, sparse):
    other = disk.save(disk.network(w3=np.full((4, 24), np.inf, np.float32)), tmp_path / "other.onnx")
    done = disk.run("verify", sparse, other, "--json")
    assert done.code == 1
    assert done.facts["max_rel_error"] is None


# --- bench


def test_bench_compares_side_by_side(model, dense, data):
    words = ("--runs", 2, "--threads", 1, "--data", data, "--metric", "top1")
    facts = disk.run("bench", model, dense, *words, "--json").facts
    first, second = facts["models"]
    assert first["relative_to_first"] == {"latency": 1, "size": 1, "macs": 1, "params": 1}
    for key, name in (
        ("latency_ms", "latency"),
        ("size_bytes", "size"),
        ("macs", "macs"),
        ("params", "params"),
    ):
        assert second["relative_to_first"][name] == pytest.approx(second[key] / first[key])
    assert second["macs"] < first["macs"] == disk.run("inspect", model, "--json").facts["macs"]
    assert second["size_bytes"] == Path(dense).stat().st_size
    assert 0 < first["latency_min_ms"] <= first["latency_ms"] <= first["latency_p90_ms"]
    assert 0 <= first["score"] <= 1
    assert facts["threads"] == 1
    said = disk.run("bench", model, dense, *words).out
    assert Path(dense).name in said
    assert "top1" in said


def test_bench_takes_the_baseline_from_the_first_model(model, data):
    words = ("--runs", 1, "--data", data, "--metric", "agreement", "--json")
    assert [m["score"] for m in disk.run("bench", model, model, *words).facts["models"]] == [1, 1]


@pytest.mark.parametrize(
    ("words", "shape"), [((), 1), (("--batch-size", 5), 5), (("--shape", "image=2x3x8x8"), 2)]
)
def test_bench_runs_the_batch_asked_for(model, words, shape):
    (row,) = disk.run("bench", model, "--runs", 1, *words, "--json").facts["models"]
    assert row["input_shapes"] == {"image": [shape, 3, 8, 8]}
    assert row["macs"] == disk.run("inspect", model, "--json").facts["macs"]


@pytest.mark.parametrize(("words", "edges"), [((), 11), (("--batch-size", 5), 5)])
def test_bench_gives_axes_of_one_name_one_size(tmp_path, words, edges):
    """A graph: the edges stand on the second axis of one input and on the first axis of another."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    graph (int64[2, E] edges, float[E, 3] attr) => (float[E, 4] y) {
        ends = Cast<to = 1>(edges)
        turned = Transpose<perm = [1, 0]>(ends)
        both = Concat<axis = 1>(attr, turned)
        y = MatMul(both, w3)
    }"""
    model = disk.save(disk.network(text, w3=np.ones((5, 4), np.float32)), tmp_path / "graph.onnx")
    (row,) = disk.run("bench", model, "--runs", 1, *words, "--json").facts["models"]
    assert row["input_shapes"] == {"edges": [2, edges], "attr": [edges, 3]}


def test_bench_refuses_a_batch_that_the_file_does_not_allow(tmp_path):
    fixed = disk.save(disk.network(disk.TEXT.replace("[N, ", "[2, ")), tmp_path / "fixed.onnx")
    assert disk.run("bench", fixed, "--runs", 1, "--json").facts["models"][0]["input_shapes"]["image"][0] == 2
    assert "fixes its batch at 2" in disk.run("bench", fixed, "--batch-size", 3).refused(code=2)


def test_bench_needs_data_for_a_metric(model):
    assert "--data" in disk.run("bench", model, "--metric", "top1").refused(code=2)


def test_bench_runs_on_samples(model, data):
    facts = disk.run("bench", model, "--data", data, "--batch-size", 5, "--runs", 1, "--json").facts
    assert facts["models"][0]["input_shapes"] == {"image": [5, 3, 8, 8]}


# --- finetune


def test_finetune_trains_and_keeps_zeros(tmp_path, sparse, data):
    out = tmp_path / "tuned.onnx"
    words = ("--data", data, "--val", data, "--epochs", 2, "--batch-size", 8, "--threads", 1)
    facts = disk.run("finetune", sparse, *words, "-o", out, "--json").facts
    assert facts["steps"] == 8
    assert len(facts["losses"]) == len(facts["scores"]) == 2
    assert facts["metric"] == "top1"
    assert facts["best_score"] == [facts["score_before"], *facts["scores"]][facts["best_epoch"]]
    tuned, plan = load(out), stored_plan(load(sparse))
    assert np.any(tuned.array("w1") != load(sparse).array("w1"))
    assert not tuned.array("w1")[list(plan.removed["conv1"])].any()
    said = disk.run("finetune", sparse, *words, "-o", out)
    assert "top1" in said.out
    assert str(out) in said.out.replace("\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker through /proc")
def test_a_killed_worker_is_an_error_and_loses_nothing(tmp_path, sparse):
    (tmp_path / "loader.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "def batches():\n"
        "    for k in range(8):\n"
        "        if k == 4:\n"
        "            for task in Path('/proc/self/task').iterdir():\n"
        "                for child in (task / 'children').read_text().split():\n"
        "                    os.kill(int(child), signal.SIGKILL)\n"
        "        yield np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int64)\n"
    )
    before = disk.tree(tmp_path)
    words = ("--data", "loader:batches", "--batch-size", 4, "--threads", 1, "-o", "tuned.onnx")
    said = shell("finetune", sparse, *words, cwd=tmp_path).refused()
    assert "worker" in said
    after = {name: b for name, b in disk.tree(tmp_path).items() if "__pycache__" not in name}
    assert after == before


# --- the contract


def test_standard_output_is_json_alone_even_if_user_code_prints(tmp_path, sparse):
    loader = tmp_path / "loader.py"
    loader.write_text(
        "import os, subprocess, sys\n"
        "import numpy as np\n"
        "def batches():\n"
        "    print('from Python')\n"
        "    os.write(1, b'from below')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"from a child\")'])\n"
        "    yield np.zeros((2, 3, 8, 8), np.float32), None\n"
    )
    words = ("transform", sparse, "--data", "loader:batches", "-o", "dense.onnx", "--json")
    done = shell(*words, cwd=tmp_path)
    assert done.facts["runs"] >= 3
    for said in ("from Python", "from below", "from a child"):
        assert said in done.err


@pytest.mark.slow
def test_a_shell_sees_the_same(tmp_path, model):
    out = tmp_path / "sparse.onnx"
    assert shell("prune", model, "--reduce-macs", 0.5, "-o", out, "--json").facts["macs_reduction"] > 0
    shell("prune", tmp_path / "none.onnx", "--reduce-macs", 0.5, "-o", out, "--json").refused()
    shell("prune", model, "--reduce-macs", 2, "-o", out).refused(code=2)
    shell("prune", model, "--no-such-option").refused(code=2)
    shell("no-such-command").refused(code=2)
    shell().refused(code=2)


def test_a_reader_that_has_seen_enough_is_no_error(model):
    command = f"{sys.executable} -m onnxprune inspect {model} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom onnxprune.app.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "transform" in done.stdout


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_is_silent_on_standard_error(shell_name):
    """The lines that the README sets up, and the answer to each press of the tab key."""
    tool = [Path(sys.executable).with_name("onnxprune")]
    if not tool[0].exists():
        tool = [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'onnxprune'; import onnxprune.app.cli as c; c.main()",
        ]

    def asked(instruction, **words):
        env = os.environ | {"_ONNXPRUNE_COMPLETE": f"{shell_name}_{instruction}", **words}
        return subprocess.run(tool, capture_output=True, text=True, timeout=60, check=False, env=env)

    script = asked("source")
    assert (script.returncode, script.stderr) == (0, "")
    assert "_ONNXPRUNE_COMPLETE" in script.stdout
    current = {"COMP_CWORD": "--reduce" if shell_name == "fish" else "2"}
    answer = asked("complete", COMP_WORDS="onnxprune prune --reduce", **current)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "--reduce-macs" in answer.stdout


def test_no_words_at_all_are_answered_with_the_commands():
    said = disk.run().refused(code=2)
    assert all(name in said for name in program.commands)
    assert "--help" in said


def test_the_list_of_commands_has_whole_sentences():
    listed = disk.run("--help").out.partition("Commands:")[2]
    assert "..." not in listed
    assert listed.count(".\n") == len(program.commands)


@pytest.mark.parametrize("name", sorted(program.commands))
def test_every_command_explains_itself_and_can_speak_json(name):
    done = disk.run(name, "--help")
    assert done.code == 0
    assert "--json" in done.out


def test_an_interrupted_command_is_reported(monkeypatch, model):
    def interrupt(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.ir.load", interrupt)
    done = disk.run("inspect", model)
    assert (done.code, done.out) == (130, "")
    assert done.err.lstrip().startswith("error: interrupted")


@pytest.fixture
def interruptible():
    """Let Ctrl-C reach the processes a test starts: shells have those in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_command_and_leaves_nothing(tmp_path, sparse):
    (tmp_path / "loader.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "def batches():\n"
        "    Path('started').touch()\n"
        "    time.sleep(100)\n"
    )
    words = ["transform", sparse, "--data", "loader:batches", "-o", "dense.onnx"]
    command = [sys.executable, "-m", "onnxprune", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as running:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "error: interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "dense.onnx").exists()
    assert not list(tmp_path.glob(".onnxprune-*"))


def test_json_is_the_same_in_a_terminal_or_not(model):
    assert json.loads(disk.run("inspect", model, "--json").out) == shell("inspect", model, "--json").facts
