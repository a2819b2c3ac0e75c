"""The gate for pipelines: the script, the shell step of the action, the lines of the image."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_networks import cnn, stripes

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / ".github" / "actions" / "shrink"
spec = importlib.util.spec_from_file_location("gate", ACTION / "gate.py")
assert spec is not None
assert spec.loader is not None
gate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gate)

ROWS = [
    {"model": "original", "score": 0.9, "latency_ms": 2.0, "size_bytes": 1000},
    {"model": "pruned", "score": 0.88, "latency_ms": 1.0, "size_bytes": 600},
]


def limits(**given: float) -> argparse.Namespace:
    names = ("max_size_bytes", "max_latency_ms", "max_latency_share", "max_drop", "min_score")
    return argparse.Namespace(**{name: given.get(name) for name in names})


@pytest.mark.parametrize(
    ("metric", "given", "count"),
    [
        ("top1", {}, 0),
        ("top1", {"max_size_bytes": 600, "max_latency_ms": 1, "max_latency_share": 0.5}, 0),
        ("top1", {"max_size_bytes": 599, "max_latency_ms": 0.9, "max_latency_share": 0.4}, 3),
        ("top1", {"max_drop": 0.021, "min_score": 0.88}, 0),
        ("top1", {"max_drop": 0.01, "min_score": 0.89}, 2),
        ("kl", {"max_drop": 0.01}, 0),  # less is better, and it is less
        ("perplexity@logits", {"min_score": -0.85}, 1),
    ],
)
def test_limits(metric, given, count):
    assert len(gate.missed(ROWS, metric, limits(**given))) == count


def step() -> tuple[str, dict[str, str]]:
    """The last shell step of the action: its command, and its environment by input."""
    yaml = pytest.importorskip("yaml")
    action = yaml.safe_load((ACTION / "action.yml").read_text("utf-8"))
    assert action["runs"]["using"] == "composite"
    found = action["runs"]["steps"][-1]
    names = {name: re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", v)[1] for name, v in found["env"].items()}
    assert set(names.values()) | {"python-version"} == set(action["inputs"])
    used = {
        re.fullmatch(r"\$\{\{ steps\.gate\.outputs\.([\w-]+) \}\}", o["value"])[1]
        for o in action["outputs"].values()
    }
    assert used == {"output", *gate.FIGURES}
    return found["run"], names


def test_inputs_of_the_action_are_options_of_the_script(monkeypatch):
    _, names = step()
    monkeypatch.setattr(sys, "argv", ["gate.py"])
    for variable, name in names.items():
        monkeypatch.setenv(variable, "0.5" if name.startswith(("max", "min")) else f"the {name}")
    options = vars(gate.read_options())
    assert set(options) == {name.replace("-", "_") for name in names.values()}
    assert options["max_drop"] == 0.5
    assert options["model"] == "the model"


def test_the_image_runs_the_script():
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    entry = json.loads(
        next(line for line in lines if line.startswith("ENTRYPOINT")).removeprefix("ENTRYPOINT ")
    )
    target = next(shlex.split(line)[2] for line in lines if line.startswith("COPY"))
    assert entry[0] == "python"
    assert (ROOT / Path(entry[1]).relative_to(target)).is_file()


@pytest.mark.slow
def test_the_step_of_the_action_passes_and_fails(tmp_path):
    import onnx

    images, labels = stripes(96, 1)
    np.savez(tmp_path / "train.npz", image=images, labels=labels)
    onnx.save(cnn(), tmp_path / "model.onnx")
    command, names = step()
    given = {"model": "model.onnx", "data": "train.npz", "output": "small.onnx"}
    given["options"] = "--reduce-macs 0.4 --minutes 0 --threads 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GITHUB_ACTION_PATH": str(ACTION)}
    environment |= {v: given.get(name, "") for v, name in names.items()}
    environment |= {"GITHUB_OUTPUT": str(tmp_path / "out"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        how = {"cwd": tmp_path, "env": environment | more, "capture_output": True, "text": True}
        return subprocess.run(["bash", "-e", "-c", command], check=False, **how)

    done = run(INPUT_MAX_SIZE_BYTES="1000000")
    assert done.returncode == 0, done.stderr
    assert "output=small.onnx" in (tmp_path / "out").read_text()
    assert "| pruned | " in (tmp_path / "summary").read_text()
    assert (tmp_path / "small.onnx").is_file()
    done = run(INPUT_MAX_SIZE_BYTES="10", GITHUB_ACTIONS="true")
    assert done.returncode == 1
    assert "::error::the size is " in done.stderr
