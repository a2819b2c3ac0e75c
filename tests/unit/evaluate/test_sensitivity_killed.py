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
COUNT = "ONNXPRUNE_TEST_COUNT"
"""Environment variable: the file that grows by one byte a measurement."""


def counted(outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
    """A metric that counts its calls in a file and leaves time for a kill."""
    with Path(os.environ[COUNT]).open("ab") as file:
        file.write(b".")
    time.sleep(0.05)
    return float(np.mean([np.square(o).mean() for o in outputs.values()]))


class Runs:
    """Runs of one command in a folder, with the number of measurements each has made."""

    def __init__(self, folder: Path, mode: str, count: Path) -> None:
        words = f"-m onnxprune ana net.onnx --data data.npz --metric {__name__}:counted --mode {mode}"
        self.command = [sys.executable, *words.split(), "--threads", "1", "--resume", "-o"]
        path = python_path(Path(__file__).parent)
        self.count = count
        self.place: dict[str, Any] = {
            "cwd": folder,
            "env": {**os.environ, "PYTHONPATH": path, COUNT: str(count)},
        }
        self.quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def start(self, file: Path) -> subprocess.Popen[bytes]:
        self.count.write_bytes(b"")
        return subprocess.Popen([*self.command, str(file)], **self.place, **self.quiet)

    def whole(self, file: Path) -> int:
        """Run to the end; return the number of measurements."""
        assert self.start(file).wait() == 0
        return self.count.stat().st_size

    def killed(self, file: Path, measurements: int, seconds: float) -> bool:
        """Kill a run after some measurements and seconds; return whether it was killed before its end."""
        process = self.start(file)
        while self.count.stat().st_size < measurements and process.poll() is None:
            time.sleep(0.005)
        time.sleep(seconds)
        process.kill()
        return process.wait() != 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "adaptive"])
def test_killed_at_random_points(tmp_path: Path, mode: str) -> None:
    """Killed any number of times, a run ends with the same bytes; in between, the file is whole."""
    onnx.save(net().proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=samples(net())["image"])
    runs = Runs(tmp_path, mode, tmp_path / "count.txt")
    whole, file = tmp_path / "whole.json", tmp_path / "killed.json"
    measurements = runs.whole(whole)
    chance, kills, seen = random.Random(0), 0, set[int]()
    while kills < KILLS:
        if runs.killed(file, chance.randint(1, measurements), chance.uniform(0, 0.1)):
            kills += 1
            seen.add(len(Analysis.from_json(file.read_text()).curves) if file.exists() else -1)
        else:
            assert file.read_bytes() == whole.read_bytes()
            file.unlink()
    runs.whole(file)
    assert file.read_bytes() == whole.read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".npz", ".json", ".txt"}
    assert len(seen) > 1  # kills have struck at different stages
