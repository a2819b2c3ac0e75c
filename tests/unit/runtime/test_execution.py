"""Execution providers: names, errors, fallbacks, the second comparison. A real second provider runs where
``ONNXPRUNE_SECOND_PYTHON`` names a Python whose onnxruntime has one."""

from __future__ import annotations

import json
import os
import subprocess

import networks_on_disk as disk
import numpy as np
import pytest
from places import ROOT

from onnxprune.errors import DeviceError
from onnxprune.evaluate.equivalence import device, examine
from onnxprune.ir import Model
from onnxprune.runtime import ExecutionConfig, Session, executing
from onnxprune.runtime import execution as module
from onnxprune.runtime.probe import probe

SECOND = os.environ.get("ONNXPRUNE_SECOND_PYTHON", "")


def second_provider() -> str:
    """Return a provider beside the CPU that this onnxruntime has, able to run the models or not."""
    others = [name for name in module.available() if name != module.CPU]
    if not others:
        pytest.skip("this onnxruntime has the CPU provider alone")
    return others[0]


def test_short_and_full_names_are_one():
    assert ExecutionConfig.of("CPU") == ExecutionConfig.of("CPUExecutionProvider") == ExecutionConfig()


def test_a_provider_that_is_not_there_is_refused_with_the_package_that_has_it():
    with pytest.raises(DeviceError, match="no execution provider 'cuda'") as caught:
        ExecutionConfig.of("cuda")
    assert "onnxruntime-gpu" in caught.value.hint
    with pytest.raises(DeviceError, match="no execution provider 'warp'") as caught:
        ExecutionConfig.of("warp")
    assert "cpu" in caught.value.hint


def test_options_of_the_user_come_after_the_defaults():
    made = ExecutionConfig("CUDAExecutionProvider", {"use_tf32": "1", "device_id": "2"}).providers()
    assert made[0][1] == {"use_tf32": "1", "cudnn_conv_algo_search": "HEURISTIC", "device_id": "2"}
    assert made[1] == module.CPU


def test_sessions_use_the_configuration_in_use_and_references_stay_on_the_cpu():
    network = disk.network()
    with executing(ExecutionConfig(second_provider())):
        assert Session(network).execution.provider == second_provider()
        assert Session(network, optimize=False).execution.is_cpu
    assert Session(network).execution.is_cpu


def test_a_provider_that_cannot_be_started_is_an_error(monkeypatch):
    class Silent:
        def __init__(self, *_, **__): ...
        def get_providers(self):
            return [module.CPU]

    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    with pytest.raises(DeviceError, match="provider cuda cannot be started"):
        Session(disk.network(), execution=ExecutionConfig("CUDAExecutionProvider"))


def test_fallbacks_are_reported_once():
    config = ExecutionConfig("NoSuchProvider")
    assert module.unreported({"Conv", "Add"}, config) == ["Add", "Conv"]
    assert module.unreported({"Conv", "Mul"}, config) == ["Mul"]


def test_the_cpu_works():
    probe(ExecutionConfig())


class Skewed(Session):
    """A device that multiplies the results of the models with a certain weight."""

    factor = 1.0
    of = ""

    def run(self, feeds, outputs=None):
        found = super().run(feeds, outputs)
        skew = 1.0 if self.execution.is_cpu or self.of not in self.name else self.factor
        return {name: value * np.float32(skew) for name, value in found.items()}


@pytest.mark.parametrize(
    ("of", "factor", "agrees"),
    [("", 1.0, True), ("", 1.01, True), ("candidate", 1.01, False), ("candidate", np.nan, False)],
)
def test_the_noise_of_a_device_is_measured(monkeypatch, of, factor, agrees):
    """Noise of both models is the device's; noise of the candidate alone is a difference."""
    reference, candidate = Model(disk.network()), Model(disk.network())
    candidate.proto.graph.name = "candidate"
    monkeypatch.setattr(Skewed, "of", of)
    monkeypatch.setattr(Skewed, "factor", factor)
    monkeypatch.setattr(device, "Session", Skewed)
    with executing(ExecutionConfig(second_provider())):
        verdict = examine(reference, candidate)
    assert verdict.equal is agrees
    assert any("max_rel_error" in text for text in (*verdict.notes, verdict.reason))


def test_a_device_that_computes_no_numbers_shows_nothing(monkeypatch):
    monkeypatch.setattr(Skewed, "factor", np.nan)
    monkeypatch.setattr(device, "Session", Skewed)
    with executing(ExecutionConfig(second_provider())):
        verdict = examine(Model(disk.network()), Model(disk.network()))
    assert verdict.equal
    assert any(note.startswith("not compared on") for note in verdict.notes)


@pytest.mark.parametrize(
    "command",
    [
        "bench model.onnx --runs 1",
        "verify model.onnx model.onnx",
        "prune model.onnx --reduce-macs 0.3 -o out.onnx",
        "ana model.onnx --data data.npz --metric mse -o out.json",
    ],
)
def test_commands_refuse_a_provider_that_is_not_there(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    disk.save(disk.network(), tmp_path / "model.onnx")
    disk.save_data(tmp_path / "data.npz", **disk.samples())
    said = disk.run(*command.split(), "--provider", "cuda").refused()
    assert "no execution provider 'cuda'" in said
    assert not list(tmp_path.glob("out*"))


def test_provider_options_have_a_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disk.save(disk.network(), tmp_path / "model.onnx")
    disk.run("bench", "model.onnx", "--provider-option", "device_id").refused(2)
    said = disk.run("bench", "model.onnx", "--provider-option", "device_id=1").refused(2)
    assert "--provider NAME" in said


def test_doctor_lists_providers_and_packages():
    facts = json.loads(disk.run("doctor", "--json").out)
    assert {"name": "cpu", "provider": module.CPU, "state": "works"} in facts["providers"]
    assert {"pillow", "tokenizers", "jinja2"} <= {p["name"] for p in facts["packages"]}
    shown = disk.run("doctor").out
    assert "…" not in shown  # names of packages to install are whole
    assert all(package in shown for package in module.PACKAGES.values())


@pytest.mark.skipif(not SECOND, reason="ONNXPRUNE_SECOND_PYTHON names no Python with a second provider")
def test_every_command_on_a_second_provider(tmp_path):
    """Curves are those of the CPU, and each command succeeds."""
    disk.save(disk.network(), tmp_path / "model.onnx")
    disk.save_data(tmp_path / "data.npz", **disk.samples())
    words = [
        "ana model.onnx --data data.npz --metric kl -o {0}.json",
        "prune model.onnx --analysis {0}.json --reduce-macs 0.3 --data data.npz -o {0}-sparse.onnx",
        "recover {0}-sparse.onnx --original model.onnx --data data.npz -o {0}-recovered.onnx",
        "transform {0}-recovered.onnx -o {0}-dense.onnx",
        "verify {0}-recovered.onnx {0}-dense.onnx",
        "bench model.onnx {0}-dense.onnx --runs 2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "import onnxruntime as o; print([p for p in o.get_available_providers() if p[:3] != 'CPU'][0])"
    other = subprocess.run([SECOND, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    for provider in ("cpu", other):
        for line in words:
            name = "cpu" if provider == "cpu" else "other"
            command = [SECOND, "-m", "onnxprune", *line.format(name).split(), "--provider", provider]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    curves = [json.loads((tmp_path / f"{n}.json").read_text())["curves"] for n in ("cpu", "other")]
    for group, curve in curves[0].items():
        np.testing.assert_allclose(curves[1][group]["values"], curve["values"], rtol=1e-3, atol=1e-5)
