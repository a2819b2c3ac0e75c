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
from test_sensitivity import net, samples

from onnxprune.plan import Analysis

KILLS = 20


def slowly(outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
    """A metric that leaves time for a kill."""
    time.sleep(0.03)
    return float(np.mean([np.square(o).mean() for o in outputs.values()]))


def command(file: Path, mode: str) -> list[str]:
    metric = "kl" if mode == "adaptive" else "test_sensitivity_killed:slowly"
    words = (
        f"-m onnxprune ana net.onnx --data data.npz --metric {metric} --mode {mode} --batch-size 8 --resume"
    )
    return [sys.executable, *words.split(), "--threads", "1", "-o", str(file)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "adaptive"])
def test_killed_at_random_points(tmp_path: Path, mode: str) -> None:
    """However often it is killed, it ends with the same bytes; in between, the file is whole."""
    onnx.save(net().proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=samples(net(), count=600)["image"])
    place: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}, "cwd": tmp_path}
    begin = time.monotonic()
    subprocess.run(command(tmp_path / "whole.json", mode), check=True, **place, capture_output=True)
    duration = time.monotonic() - begin
    file, chance, kills, seen = tmp_path / "killed.json", random.Random(0), 0, set[int]()
    while kills < KILLS:
        process = subprocess.Popen(command(file, mode), **place, stderr=subprocess.DEVNULL)
        try:
            process.wait(duration * chance.uniform(0.4, 1.0))
            assert process.returncode == 0
            assert file.read_bytes() == (tmp_path / "whole.json").read_bytes()
            file.unlink()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            if file.exists():
                seen.add(len(Analysis.from_json(file.read_text()).curves))
    subprocess.run(command(file, mode), check=True, **place, capture_output=True)
    assert file.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".npz", ".json"}
    assert len(seen) > 1  # kills have struck at different stages
