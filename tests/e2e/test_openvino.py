"""The example for OpenVINO; ONNXPRUNE_OPENVINO_PYTHON names a Python with openvino and this package."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import pytest
from places import ROOT
from recipes import network
from training_networks import stripes

from onnxprune.ir import load
from onnxprune.runtime import Session

PYTHON = os.environ.get("ONNXPRUNE_OPENVINO_PYTHON", "")
LINE = re.compile(r"(\S+): ([\d.]+) ms \((\d+)%\)")
RUN = """
import sys, numpy, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(sys.argv[3], model(numpy.load(sys.argv[2]))[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="ONNXPRUNE_OPENVINO_PYTHON names no Python with openvino")
def test_a_pruned_model_is_run_by_openvino(tmp_path: Path) -> None:
    images, labels = stripes(64, 1)
    np.savez(tmp_path / "samples.npz", image=images, labels=labels)
    disk.save(network(), tmp_path / "model.onnx")
    command = [PYTHON, str(ROOT / "examples" / "with_openvino.py"), "model.onnx", "--data", "samples.npz"]
    command += ["--options", "--reduce-macs 0.5 --minutes 0.05"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    how = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": paths}, "capture_output": True}
    done = subprocess.run(command, text=True, timeout=300, check=False, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert [name for name, *_ in LINE.findall(done.stdout)] == ["model.onnx", "model-small.xml"]

    np.save(tmp_path / "in.npy", images[:4])
    script = [PYTHON, "-c", RUN, "model-small.xml", "in.npy", "out.npy"]
    subprocess.run(script, check=True, timeout=100, **how)  # type: ignore[call-overload]
    small = Session(load(tmp_path / "model-small.onnx").proto)
    wanted = next(iter(small.run({"image": images[:4]}).values()))
    # The file is stored in half precision, OpenVINO's default.
    assert np.abs(np.load(tmp_path / "out.npy") - wanted).max() < 0.01 * np.abs(wanted).max()
