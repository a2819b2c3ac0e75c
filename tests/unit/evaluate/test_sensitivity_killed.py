"""A run of `ana` that is killed, for good, at any time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from curves import net, samples
from places import python_path

from onnxprune.decisions.plan import Analysis

KILLS = 8


def slowly(outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
    """A metric that leaves time for a kill."""
    time.sleep(0.05)
    return float(np.mean([np.square(o).mean() for o in outputs.values()]))


class Runs:
    """Runs of one command in a folder."""

    def __init__(self, folder: Path, mode: str) -> None:
        words = f"-m onnxprune ana net.onnx --data data.npz --metric {__name__}:slowly --mode {mode}"
        self.command = [sys.executable, *words.split(), "--threads", "1", "--resume", "-o"]
        path = python_path(Path(__file__).parent)
        self.place: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": path}}
        self.quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def start(self, file: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.command, str(file)], **self.place, **self.quiet)

    def timed(self, file: Path) -> tuple[float, float]:
        """Run to the end; return when the file appeared, and when all was done."""
        begin, process = time.monotonic(), self.start(file)
        while not file.exists() and process.poll() is None:
            time.sleep(0.01)
        appeared = time.monotonic() - begin
        assert process.wait() == 0
        return appeared, time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "adaptive"])
def test_killed_at_random_points(tmp_path: Path, mode: str) -> None:
    """Killed any number of times, a run ends with the same bytes; in between, the file is whole."""
    onnx.save(net().proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=samples(net())["image"])
    runs, whole, file = Runs(tmp_path, mode), tmp_path / "whole.json", tmp_path / "killed.json"
    appeared, ended = runs.timed(whole)
    chance, kills, seen = random.Random(0), 0, set[int]()
    pace = 1.0  # of the machine, compared with the first run
    while kills < KILLS:
        process = runs.start(file)
        try:
            process.wait(pace * chance.uniform(0.9 * appeared, ended))
            assert process.returncode == 0
            assert file.read_bytes() == whole.read_bytes()
            file.unlink()
            pace *= 0.8
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            pace *= 1.0 if file.exists() else 1.1
            seen.add(len(Analysis.from_json(file.read_text()).curves) if file.exists() else -1)
    runs.timed(file)
    assert file.read_bytes() == whole.read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".npz", ".json"}
    assert len(seen) > 1  # kills have struck at different stages
