"""Every command killed at random moments: the next run ends as if nothing had happened, and nothing is left.

``ONNXPRUNE_KILLS=40 pytest tests/e2e/test_kills.py -m slow`` kills each of them 40 times.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from pathlib import Path

import networks_on_disk as disk
import pytest
from marked import Marked

from onnxprune.ir import load

KILLS = int(os.environ.get("ONNXPRUNE_KILLS", "3"))
RECIPE = """
model = "model.onnx"
folder = "work"
metric = "top1"
threads = 1
[data]
train = "data.npz"
val = "data.npz"
[budget]
reduce_macs = 0.4
[schedule]
iterations = 2
[ana]
ratios = [0.5]
[finetune]
epochs = 1
checkpoint_every = 5
[bench]
runs = 1
"""
COMMANDS = {
    "prune": "prune model.onnx --reduce-macs 0.4 --plan-out plan.json -o out.onnx",
    "recover": "recover sparse.onnx --original model.onnx --data data.npz -o out.onnx --threads 1",
    "transform": "transform sparse.onnx -o out.onnx",
    "ana": "ana model.onnx --data data.npz --metric kl --workers 2 --threads 1 --resume -o out.json",
    "finetune": "finetune sparse.onnx --data data.npz --epochs 4 --checkpoint-every 5 --threads 1 --resume"
    " -o out.onnx",
    "run": "run recipe.toml",
}
TRAINING = {"finetune", "run"}
TIMED = {"state.json", ".lock", "report.html"}
"""Files of a run that hold how long something took, or nothing."""


def results(folder: Path) -> dict[str, object]:
    """Return the contents of a folder: models with their weights, as data files change names in turn."""
    found: dict[str, object] = {}
    for path in (p for p in folder.rglob("*") if p.is_file() and p.name not in TIMED):
        name = str(path.relative_to(folder))
        if path.suffix == ".onnx":
            found[name] = load(path).proto.SerializeToString(deterministic=True)
        elif path.suffix == ".data":
            key = re.sub(r"(\.\d+)?\.data$", ".data", name)
            assert key not in found, "data of two models"
            found[key] = path.read_bytes()
        else:
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks into /proc")
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_moment(tmp_path: Path, command: str) -> None:
    marked = Marked(tmp_path / "tmp")
    place = tmp_path / "place"
    place.mkdir()
    disk.save_external(disk.network(), place / "model.onnx")
    disk.save_data(place / "data.npz", **disk.samples(256))
    (place / "recipe.toml").write_text(RECIPE)
    words = ("-m", "onnxprune", "prune", "model.onnx", "--reduce-macs", "0.3", "-o", "sparse.onnx")
    assert marked.start(*words, cwd=place).wait() == 0
    shutil.copytree(place, tmp_path / "fresh")
    words = ("-m", "onnxprune", *COMMANDS[command].split())
    began = time.monotonic()
    assert marked.start(*words, cwd=place).wait() == 0
    took, chance, struck = time.monotonic() - began, random.Random(command), 0
    whole = results(place)
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "fresh", place)
    while struck < KILLS:
        running = marked.start(*words, cwd=place)
        time.sleep(chance.uniform(0.1, 1.05) * took)
        ended = running.poll() is not None
        struck += not ended
        running.kill()
        running.wait()
        marked.wait_for(lambda n: n == 0, 20)
        assert marked.left() == []
        if ended:  # the next one would find everything done
            shutil.rmtree(place)
            shutil.copytree(tmp_path / "fresh", place)
    assert marked.start(*words, cwd=place).wait() == 0
    assert marked.wait_for(lambda n: n == 0, 20) == []
    found = results(place)
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []
