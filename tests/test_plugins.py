"""Operators, criteria, budgets and passes of another package, each one file, from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Net

from onnxprune.ir import load
from onnxprune.runtime import Session

PLUGIN = Path(__file__).with_name("plugin")
ENTRY_POINTS = """
[onnxprune.ops]
hard-shrink = hard_shrink:HARD_SHRINK
[onnxprune.criteria]
cubes = cubes:CUBES
[onnxprune.budgets]
activation-memory = activation_memory:activation_memory
[onnxprune.passes]
round-weights = round_weights:RoundWeights
"""


def installed(folder: Path, entry_points: str = ENTRY_POINTS) -> dict[str, str]:
    """Write what an installer leaves of a package; return the environment in which it is installed."""
    home = folder / "site" / "example-1.0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    (home / "entry_points.txt").write_text(entry_points)
    path = os.pathsep.join([str(folder / "site"), str(PLUGIN), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


def onnxprune(*words: str, env: dict[str, str], cwd: Path, code: int = 0) -> Any:
    command = [sys.executable, "-m", "onnxprune", *words]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code:
        return done.stderr
    return json.loads(done.stdout) if "--json" in words else done.stdout


def network() -> onnx.ModelProto:
    """Two convolutions with HardShrink between them."""
    net = Net()
    x = net.input("image", [2, 3, 8, 8])
    for out in (16, 32):
        x = net.conv(x, out, 3)
        shrunk = net.op("HardShrink", x, domain="com.example", lambd=0.2)
        x = net.sized(shrunk, net.shape(x))
    return net.proto(net.head(x))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "model.onnx")
    return tmp_path


def test_a_foreign_operator_is_pruned_and_proved(folder: Path) -> None:
    env = installed(folder)
    facts = onnxprune("inspect", "model.onnx", "--json", env=env, cwd=folder)
    assert [g["size"] for g in facts["groups"]] == [16, 32]
    onnxprune("prune", "model.onnx", "--reduce-channels", "0.5", "-o", "sparse.onnx", env=env, cwd=folder)
    facts = onnxprune("transform", "sparse.onnx", "-o", "dense.onnx", "--json", env=env, cwd=folder)
    assert facts["params"] < 0.5 * facts["params_before"]
    assert [n.op_type for n in load(folder / "dense.onnx").nodes].count("HardShrink") == 2
    assert not load(folder / "dense.onnx").proto.functions
    onnxprune("verify", "sparse.onnx", "dense.onnx", env=env, cwd=folder)


def test_without_the_plugin_the_operator_blocks(folder: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    facts = onnxprune("inspect", "model.onnx", "--json", env=env, cwd=folder)
    assert facts["groups"] == []
    assert "no rule for operator com.example.HardShrink" in json.dumps(facts)


@pytest.mark.parametrize("name", ["cubes", "cubes:cubes", "cubes:CUBES"])
def test_a_foreign_criterion_ranks_channels(folder: Path, name: str) -> None:
    env = installed(folder)
    words = ["prune", "model.onnx", "--reduce-channels", "0.25", "--strategy", "uniform", "-o", "s.onnx"]
    facts = onnxprune(*words, "--criterion", name, "--json", env=env, cwd=folder)
    assert facts["channels"] < facts["channels_baseline"]
    sparse = load(folder / "s.onnx")
    weight = load(folder / "model.onnx").array(sparse.nodes[2].input[1])
    worth = (np.abs(weight) ** 3).sum((0, 2, 3))
    gone = np.flatnonzero(~sparse.array(sparse.nodes[2].input[1]).any((0, 2, 3)))
    assert len(gone)
    assert set(gone) == set(np.argsort(worth)[: len(gone)])


def test_a_foreign_budget_is_kept(folder: Path) -> None:
    env = installed(folder)
    words = ["prune", "model.onnx", "--round-to", "1", "-o", "s.onnx", "--json"]
    for name in ("activation-memory", "activation_memory:activation_memory"):
        facts = onnxprune(*words, "--reduce", f"{name}=0.4", env=env, cwd=folder)
        figures = facts["budgets"][name]
        assert 0.5 < figures["predicted"] / figures["baseline"] <= 0.601
    onnxprune("transform", "s.onnx", "-o", "dense.onnx", env=env, cwd=folder)
    assert abs(activations(folder / "dense.onnx") / activations(folder / "model.onnx") - 0.6) < 0.02


def activations(path: Path) -> float:
    """Count the bytes of all results of nodes, by the shapes that the runtime gives them."""
    proto = onnx.load(path)
    for node in proto.graph.node:
        if node.op_type == "HardShrink":
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    names = [o for n in proto.graph.node for o in n.output]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    image = np.ones((2, 3, 8, 8), np.float32)
    return sum(a.nbytes for a in Session(proto, optimize=False).run({"image": image}).values())


def test_a_foreign_pass_is_a_command(folder: Path) -> None:
    env = installed(folder)
    facts = onnxprune(
        "round-weights", "model.onnx", "--step", "0.25", "-o", "r.onnx", "--json", env=env, cwd=folder
    )
    rounded = load(folder / "r.onnx")
    weights = [rounded.array(n.input[1]) for n in rounded.nodes if n.op_type == "Conv"]
    assert facts["rounded"] == sum(
        a.size for a in (rounded.array(c) for c in rounded.constants) if a.ndim > 1
    )
    assert all((w / 0.25 == np.round(w / 0.25)).all() for w in weights)
    listed = subprocess.run(
        [sys.executable, "-m", "onnxprune", "--help"],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "round-weights" in listed.stdout
    assert "Round the weights to multiples of a step" in listed.stdout


WRONG = {
    "[onnxprune.ops]\nx = json:loads": ("holds no OpSpec", "inspect"),
    "[onnxprune.ops]\nx = no_such_module:X": ("cannot be imported", "inspect"),
    "[onnxprune.criteria]\ncubes = json:decoder": ("neither a Criterion nor a function", "prune"),
    "[onnxprune.criteria]\ncubes = json:loads": ("the criterion cubes raised TypeError", "prune"),
    "": ("unknown criterion 'cubes'", "prune"),
}


@pytest.mark.parametrize("entry_points", WRONG)
def test_broken_plugins_are_named(folder: Path, entry_points: str) -> None:
    said, command = WRONG[entry_points]
    env = installed(folder, entry_points)
    words = {"prune": ["--criterion", "cubes", "--reduce-macs", "0.3", "-o", "s.onnx"]}.get(command, [])
    code = 2 if "unknown" in said else 1
    error = onnxprune(command, str(PLAIN), *words, env=env, cwd=folder, code=code)
    assert said in error
    assert "hint:" in error


PLAIN = Path(__file__).parents[1] / "models/mnist_cnn.onnx"
