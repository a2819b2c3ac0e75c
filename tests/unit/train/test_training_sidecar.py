"""Finding and installing the training build, without the network."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from onnxprune.errors import TrainingError
from onnxprune.train import sidecar

Version = collections.namedtuple("Version", "major minor")


@pytest.fixture(autouse=True)
def supported_machine(monkeypatch):
    monkeypatch.setattr(sidecar.sys, "version_info", (3, 11))
    monkeypatch.setattr(sidecar.platform, "machine", lambda: "x86_64")


def _fake_pip(monkeypatch, code: int = 0, complete: bool = True) -> list[list[str]]:
    """Let pip write the files of the wheel, or fail."""
    calls: list[list[str]] = []

    def run(command, **options):
        calls.append([*command, *Path(command[command.index("-r") + 1]).read_text().split()])
        folder = Path(command[command.index("--target") + 1])
        module = folder / "onnxruntime" / "training" / "api" / "module.py"
        module.parent.mkdir(parents=True)
        if complete:
            module.touch()
        return subprocess.CompletedProcess(command, code, "", "ERROR: no network\n" if code else "")

    monkeypatch.setattr(sidecar.subprocess, "run", run)
    return calls


def test_missing_runtime_has_a_hint(monkeypatch, tmp_path):
    monkeypatch.setenv(sidecar.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(TrainingError, match="not set up") as caught:
        sidecar.training_runtime()
    assert "setup-training" in caught.value.hint


def test_set_up_installs_once_without_dependencies(monkeypatch, tmp_path):
    monkeypatch.setenv(sidecar.FOLDER_VARIABLE, str(tmp_path / "there"))
    calls = _fake_pip(monkeypatch)
    assert sidecar.setup_training() == sidecar.setup_training() == sidecar.training_runtime()
    assert len(calls) == 1
    assert {"--no-deps", "--require-hashes", sidecar.REQUIREMENT} <= set(calls[0])
    assert {f"--hash=sha256:{digest}" for digest in sidecar.SHA256} <= set(calls[0])
    assert calls[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(("code", "complete"), [(1, True), (0, False)])
def test_failed_set_up_leaves_nothing(monkeypatch, tmp_path, code, complete):
    _fake_pip(monkeypatch, code, complete)
    with pytest.raises(TrainingError, match="could not install") as caught:
        sidecar.setup_training(tmp_path / "there")
    assert "by hand" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_left_alone(monkeypatch, tmp_path):
    calls = _fake_pip(monkeypatch)
    (tmp_path / "precious.txt").touch()
    with pytest.raises(TrainingError, match="not empty"):
        sidecar.setup_training(tmp_path)
    assert calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_folder_that_cannot_be_written_is_an_error(monkeypatch, tmp_path):
    _fake_pip(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be set up"):
        sidecar.setup_training(tmp_path / "file" / "there")


def test_python_without_a_wheel_has_a_hint(monkeypatch, tmp_path):
    monkeypatch.setattr(sidecar.sys, "version_info", Version(3, 13))
    monkeypatch.setenv(sidecar.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(TrainingError, match=r"for Python 3\.13") as caught:
        sidecar.training_runtime()
    assert "every command but finetune works" in caught.value.hint


def test_machine_without_a_wheel_has_a_hint(monkeypatch, tmp_path):
    monkeypatch.setattr(sidecar.sys, "platform", "linux")
    monkeypatch.setattr(sidecar.platform, "machine", lambda: "aarch64")
    with pytest.raises(TrainingError, match="for aarch64") as caught:
        sidecar.setup_training(tmp_path / "there")
    assert "every command but finetune works" in caught.value.hint


def test_default_folder_is_the_user_s_and_per_python(monkeypatch, tmp_path):
    monkeypatch.delenv(sidecar.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(sidecar.sys, "platform", "linux")
    monkeypatch.setattr(sidecar.sys, "version_info", Version(3, 11))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = sidecar.training_folder()
    assert folder.parent == tmp_path / "onnxprune"
    assert folder.name.endswith("-cp311")


def test_a_wheel_that_is_another_is_refused(monkeypatch, tmp_path):
    """Other files that an index offers under the name and the version."""
    folder = tmp_path / "index"
    folder.mkdir()
    name = sidecar.REQUIREMENT.replace("-", "_").replace("==", "-")
    info = f"{name}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: onnxruntime-training-cpu\nVersion: {name.rpartition('-')[2]}\n"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("onnxruntime/training/api/module.py", "")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    for variable, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{variable}", value)
    with pytest.raises(TrainingError, match="could not install") as caught:
        sidecar.setup_training(tmp_path / "there")
    assert "HASHES" in caught.value.message or "No matching" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_pip_is_not_taken_from_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__main__.py").write_text("open('victim', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(TrainingError):
        sidecar.setup_training(tmp_path / "there" / "it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pip", "there"]
