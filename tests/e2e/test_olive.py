"""The pass of Olive workflows, by the Olive of the Python that ``ONNXPRUNE_OLIVE_PYTHON`` names."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from places import ROOT

from onnxprune.olive.__main__ import main

PYTHON = os.environ.get("ONNXPRUNE_OLIVE_PYTHON") or (
    sys.executable if importlib.util.find_spec("olive") else ""
)
needs_olive = pytest.mark.skipif(not PYTHON, reason="ONNXPRUNE_OLIVE_PYTHON names no Python with olive-ai")
DATA = """
from olive.data.registry import Registry
import numpy as np, torch

class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 48
    def __getitem__(self, k):
        x = np.random.default_rng(k).uniform(size=(1, 28, 28)).astype("f4")
        return {"image": torch.from_numpy(x)}, k % 10

@Registry.register_dataset()
def drawn_pictures(**options):
    return Pairs()
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OLIVE_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    found = subprocess.run(
        [PYTHON, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found


def dense_model(folder: Path) -> onnx.ModelProto:
    (path,) = folder.rglob("*.onnx")
    return onnx.load(path)


def parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer)


def workflow(folder: Path, **options: object) -> Path:
    """Write the workflow of the documentation with other options."""
    text = (ROOT / "docs" / "olive.md").read_text("utf-8").split("```json\n")[1].split("```")[0]
    content = json.loads(text)
    content["passes"]["prune"] |= options
    if "data_config" in options:
        del content["passes"]["prune"]["data"]
        content["data_configs"] = [
            {
                "name": "pictures",
                "user_script": "data.py",
                "load_dataset_config": {"type": "drawn_pictures"},
                "pre_process_data_config": {"type": "skip_pre_process"},
                "post_process_data_config": {"type": "skip_post_process"},
                "dataloader_config": {"params": {"batch_size": 16}},
            }
        ]
    (folder / "models").symlink_to(ROOT / "models")
    (folder / "data.py").write_text(DATA)
    (folder / "workflow.json").write_text(json.dumps(content))
    pictures = np.random.default_rng(0).uniform(size=(48, 1, 28, 28)).astype("f4")
    np.savez(folder / "samples.npz", image=pictures)
    return folder / "workflow.json"


@needs_olive
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"data_config": "pictures", "epochs": 1, "loss": "cross-entropy"}])
def test_olive_prunes_a_model(tmp_path: Path, options: dict[str, object]) -> None:
    workflow(tmp_path, **options)
    run(tmp_path, "-m", "onnxprune.olive", "packages.json")
    run(tmp_path, "-m", "olive", "run", "--config", "workflow.json", "--package-config", "packages.json")
    given, dense = onnx.load(ROOT / "models" / "mnist_cnn.onnx"), dense_model(tmp_path / "small")
    assert parameters(dense) < 0.7 * parameters(given)
    assert [o.name for o in dense.graph.output] == [o.name for o in given.graph.output]


def test_usage_and_a_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "b"]) == 2
    assert "usage:" in capsys.readouterr().err
    there = tmp_path / "there.json"
    there.write_text("kept")
    assert main([str(there)]) == 1
    assert "error:" in capsys.readouterr().err
    assert there.read_text() == "kept"
