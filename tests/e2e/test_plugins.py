"""Operators, criteria, budgets and passes of another package, each one file, from end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from helpers import Net
from places import ROOT, TESTS

from onnxprune.ir import load
from onnxprune.ops import spec
from onnxprune.ops.axes import table
from onnxprune.passes.prune_options import PruneOptions
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import CRITERIA, CriterionName
from onnxprune.search import costs

Install = Callable[..., None]
PLUGIN = TESTS / "plugin"
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


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that writes the metadata of an installed package, until the test ends."""
    spec.load()
    known = dict(spec.SPECS)

    def install(entry_points: str = ENTRY_POINTS) -> None:
        home = tmp_path / "site" / "example-1.0.dist-info"
        home.mkdir(parents=True)
        (home / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
        (home / "entry_points.txt").write_text(entry_points)
        for folder in (tmp_path / "site", PLUGIN):
            monkeypatch.syspath_prepend(folder)
        monkeypatch.chdir(tmp_path)
        onnx.save(network(), "model.onnx")
        spec._loaded = False

    yield install
    spec.SPECS.clear()
    spec.SPECS.update(known)
    spec._loaded = True


def command(*words: str) -> Any:
    """Run a command line; return its facts."""
    outcome = disk.run(*words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.facts


def network() -> onnx.ModelProto:
    """Two convolutions with HardShrink between them."""
    net = Net()
    x = net.input("image", [2, 3, 8, 8])
    for out in (16, 32):
        x = net.conv(x, out, 3)
        shrunk = net.op("HardShrink", x, domain="com.example", lambd=0.2)
        x = net.sized(shrunk, net.shape(x))
    return net.proto(net.head(x))


def test_an_operator_from_outside_is_pruned_and_proved(installed: Install) -> None:
    installed()
    facts = command("inspect", "model.onnx")
    assert [g["size"] for g in facts["groups"]] == [16, 32]
    command("prune", "model.onnx", "--reduce-channels", "0.5", "-o", "sparse.onnx")
    facts = command("transform", "sparse.onnx", "-o", "dense.onnx")
    assert facts["params"] < 0.5 * facts["params_before"]
    dense = load("dense.onnx")
    assert [n.op_type for n in dense.nodes].count("HardShrink") == 2
    assert not dense.proto.functions


def test_without_the_plugin_the_operator_blocks(installed: Install) -> None:
    installed("")
    facts = command("inspect", "model.onnx")
    assert facts["groups"] == []
    assert "no rule for operator com.example.HardShrink" in json.dumps(facts)


@pytest.mark.parametrize("name", ["cubes", "cubes:cubes", "cubes:CUBES"])
def test_a_criterion_from_outside_ranks_channels(installed: Install, name: str) -> None:
    installed()
    words = ["prune", "model.onnx", "--reduce-channels", "0.25", "--strategy", "uniform", "-o", "s.onnx"]
    command(*words, "--criterion", name)
    sparse = load("s.onnx")
    weight = sparse.nodes[2].input[1]
    worth = (np.abs(load("model.onnx").array(weight)) ** 3).sum((0, 2, 3))
    gone = np.flatnonzero(~sparse.array(weight).any((0, 2, 3)))
    assert len(gone)
    assert set(gone) == set(np.argsort(worth)[: len(gone)])


@pytest.mark.parametrize("name", ["activation-memory", "activation_memory:activation_memory"])
def test_a_budget_from_outside_is_kept(installed: Install, name: str) -> None:
    installed()
    figures = command("prune", "model.onnx", "--round-to", "1", "--reduce", f"{name}=0.4", "-o", "s.onnx")
    assert 0.55 < figures["budgets"][name]["predicted"] / figures["budgets"][name]["before"] <= 0.601
    shown = disk.run("prune", "model.onnx", "--round-to", "1", "--reduce", f"{name}=0.4", "-o", "s.onnx").out
    assert re.search(r"^activation[ -]memory .* −4\d\.\d %$", shown, re.MULTILINE)
    command("transform", "s.onnx", "-o", "dense.onnx")
    assert abs(activations("dense.onnx") / activations("model.onnx") - 0.6) < 0.02


def activations(path: str) -> float:
    """Count the bytes of all results of nodes, by the shapes that the runtime gives them."""
    proto = onnx.load(path)
    names = [o for n in proto.graph.node for o in n.output]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    image = np.ones((2, 3, 8, 8), np.float32)
    return sum(a.nbytes for a in Session(proto, optimize=False).run({"image": image}).values())


def test_a_pass_from_outside_is_a_command(installed: Install) -> None:
    installed()
    facts = command("round-weights", "model.onnx", "--step", "0.25", "-o", "r.onnx")
    rounded = load("r.onnx")
    arrays = [rounded.array(name) for name in rounded.constants]
    assert facts["rounded"] == sum(a.size for a in arrays if a.ndim > 1)
    assert all((a / 0.25 == np.round(a / 0.25)).all() for a in arrays if a.ndim > 1)
    listed = disk.run("--help").out
    assert "round-weights" in listed
    assert "Round the weights to multiples of a step" in listed
    assert "--biases" in disk.run("round-weights", "--help").out


def test_an_installed_package_is_found_by_the_program(installed: Install) -> None:
    installed()
    path = os.pathsep.join(sys.path)
    words = [sys.executable, "-m", "onnxprune", "inspect", "model.onnx", "--json"]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=True)
    assert [g["size"] for g in json.loads(done.stdout)["groups"]] == [16, 32]


def test_a_budget_of_the_package_is_one_line_in_its_table(
    installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(ENTRY_POINTS.partition("[onnxprune.criteria]")[0])
    monkeypatch.setitem(
        costs.COSTS, "activation-memory", import_module("activation_memory").activation_memory
    )
    command("prune", "model.onnx", "--round-to", "1", "--reduce", "activation-memory=0.4", "-o", "s.onnx")
    command("transform", "s.onnx", "-o", "dense.onnx")
    assert abs(activations("dense.onnx") / activations("model.onnx") - 0.6) < 0.02


def test_an_operator_of_the_package_is_one_rule_with_all_facts(installed: Install) -> None:
    installed("")
    spec.load()
    facts = {**vars(import_module("hard_shrink").HARD_SHRINK), "name": "HardShrink"}
    domain, rule_of_axes = facts.pop("domain"), facts.pop("axes")
    table.rule(facts.pop("name"), domain=domain, **facts)(rule_of_axes)
    assert [g["size"] for g in command("inspect", "model.onnx")["groups"]] == [16, 32]


def test_every_criterion_has_its_name_in_the_types_and_the_texts() -> None:
    assert get_args(CriterionName) == tuple(CRITERIA)
    page = (ROOT / "docs/plans.md").read_text(encoding="utf-8")
    listed = page.partition("`--criterion`")[2].partition("## ")[0]
    assert all(f"`{name}`" in listed for name in CRITERIA)
    assert all(f"``{name}``" in str(PruneOptions.__doc__) for name in CRITERIA)


INSPECT = ("inspect", "model.onnx")
PLAIN = str(ROOT / "models/mnist_cnn.onnx")
PRUNE = ("prune", PLAIN, "--reduce-macs", "0.3", "-o", "s.onnx")
WRONG = {
    "[onnxprune.ops]\nx = json:loads": (1, "holds no OpSpec", INSPECT),
    "[onnxprune.ops]\nx = no_such_module:X": (1, "cannot be imported", INSPECT),
    "[onnxprune.ops]\nx = hard_shrink:CONV": (1, "describes ai.onnx.Conv, which is known", INSPECT),
    "[onnxprune.criteria]\nx = json:decoder": (
        1,
        "neither a Criterion nor a function",
        (*PRUNE, "--criterion", "x"),
    ),
    "[onnxprune.criteria]\nx = json:loads": (1, "criterion x raised TypeError", (*PRUNE, "--criterion", "x")),
    "[onnxprune.criteria]\nx = cubes:NONE": (1, "returned [(3,)] for", (*PRUNE, "--criterion", "x")),
    "[onnxprune.passes]\nx = json:loads": (1, "is no pass", ("x", "model.onnx", "-o", "y.onnx")),
    "[onnxprune.budgets]\nx = builtins:len": (1, "budget x raised TypeError", (*PRUNE, "--reduce", "x=0.2")),
    "": (2, "unknown criterion 'x'", (*PRUNE, "--criterion", "x")),
    " ": (2, "there is no budget of 'x'", (*PRUNE, "--reduce", "x=0.2")),
}


@pytest.mark.parametrize("entry_points", WRONG)
def test_broken_plugins_are_named(installed: Install, entry_points: str) -> None:
    code, said, words = WRONG[entry_points]
    installed(entry_points)
    outcome = disk.run(*words)
    assert outcome.code == code
    assert said in outcome.err.replace("\n", " ")
    assert "hint:" in outcome.err
