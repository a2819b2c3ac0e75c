"""Data without an end: bounded by a number of samples, or ended with a message."""

from __future__ import annotations

import sys
from pathlib import Path

import networks_on_disk as disk
import pytest

from onnxprune.evaluate.data import sources

LOADERS = """
import itertools
import numpy as np
def batch(size):
    return {"image": np.ones((size, 3, 8, 8), np.float32)}, {"labels": np.zeros(size, np.int64)}
def endless():
    while True:
        yield batch(8)
def one_batch():
    return itertools.repeat(batch(8))
def empty():
    while True:
        yield batch(0)
"""
BOUNDED = {
    "ana": ("model.onnx", "--ratios", 0.5, "--samples", 16, "-o", "out.json"),
    "prune": ("model.onnx", "--reduce-macs", 0.3, "--criterion", "activation", "--samples", 16, "-o", "out"),
    "recover": ("sparse.onnx", "--original", "model.onnx", "--samples", 16, "-o", "out.onnx"),
    "transform": ("sparse.onnx", "--samples", 16, "-o", "out.onnx"),
    "verify": ("sparse.onnx", "sparse.onnx", "--samples", 16),
    "init": ("model.onnx", "-o", "out.toml"),
}
OPEN = {
    "ana": ("model.onnx", "--ratios", 0.5, "-o", "out.json"),
    "prune": ("model.onnx", "--reduce-macs", 0.3, "--criterion", "activation", "-o", "out"),
    "bench": ("model.onnx", "--runs", 1, "--metric", "top1"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "_MOST", 2_000)
    monkeypatch.setattr(sources, "_MOST_EMPTY", 100)
    monkeypatch.setattr(sources, "_LONG_S", 0.0)
    monkeypatch.delitem(sys.modules, "endless_loader", raising=False)
    (tmp_path / "endless_loader.py").write_text(LOADERS)
    disk.save(disk.network(), tmp_path / "model.onnx")
    assert disk.run("prune", "model.onnx", "--reduce-macs", 0.3, "-o", "sparse.onnx").code == 0
    return tmp_path


@pytest.mark.parametrize("loader", ["endless", "one_batch"])
@pytest.mark.parametrize("command", BOUNDED)
def test_a_number_of_samples_bounds_it(command: str, loader: str) -> None:
    outcome = disk.run(command, *BOUNDED[command], "--data", f"endless_loader:{loader}")
    assert outcome.code == 0, outcome.err
    assert "goes on" not in outcome.err or command == "recover"  # it stops by itself


@pytest.mark.parametrize("loader", ["endless", "one_batch"])
@pytest.mark.parametrize("command", OPEN)
def test_without_a_number_it_is_ended_with_a_message(command: str, loader: str) -> None:
    outcome = disk.run(command, *OPEN[command], "--data", f"endless_loader:{loader}")
    assert outcome.code == 1
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert f"endless_loader:{loader} has given 8 samples, and goes on" in lines[0]
    assert sum("goes on" in line for line in lines) == 1
    assert "gives more than 2000 samples" in outcome.err
    assert "a number of samples" in lines[-1]


def test_training_on_it_is_ended() -> None:
    words = ("finetune", "sparse.onnx", "--data", "endless_loader:endless", "-o", "out.onnx")
    assert "gives more than 2000 samples" in disk.run(*words).err


@pytest.mark.parametrize("command", BOUNDED)
def test_batches_without_samples_come_to_an_end(command: str) -> None:
    outcome = disk.run(command, *BOUNDED[command], "--data", "endless_loader:empty")
    assert outcome.code == 1 or command == "init"
    assert "Traceback" not in outcome.err
