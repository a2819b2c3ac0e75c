"""Where the training build of onnxruntime lives: a folder of its own.

onnxruntime and onnxruntime-training-cpu install into the same package folder and break each other, so the
second one goes where only the training worker looks. Its last release is 1.19.2 (September 2024): wheels for
Python 3.8 to 3.12 on x86-64 Linux, x86-64 Windows and macOS.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from onnxprune.errors import TrainingError
from onnxprune.staging import scratch_folder

REQUIREMENT = "onnxruntime-training-cpu==1.19.2"
FOLDER_VARIABLE = "ONNXPRUNE_ORT_TRAINING"
SETUP_COMMAND = "python -m onnxprune setup-training"


def training_folder() -> Path:
    """Return the folder the training build belongs in, whether it is there or not.

    `ONNXPRUNE_ORT_TRAINING` names it; without, it is one folder per Python version in the user's data folder.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return _user_data_folder() / "onnxprune" / f"{REQUIREMENT.replace('==', '-')}-{version}"


def training_runtime() -> Path:
    """Find the training build.

    Returns:
        The folder to put first on the worker's path.

    Raises:
        TrainingError: It is not there, or there is none for this machine.
    """
    folder = training_folder()
    if _holds_training_build(folder):
        return folder
    _require_wheel()
    raise TrainingError(f"the training runtime is not set up (looked in {folder})", f"run: {SETUP_COMMAND}")


def setup_training(target: Path | None = None) -> Path:
    """Install the training build, unless it is there already.

    The folder appears complete or not at all.

    Args:
        target: The folder; None takes `training_folder()`.

    Returns:
        The folder.

    Raises:
        TrainingError: There is no wheel for this machine, or pip could not install it.
    """
    folder = (target or training_folder()).absolute()
    if _holds_training_build(folder):
        return folder
    _require_wheel()
    if folder.exists() and any(folder.iterdir()):
        raise TrainingError(f"{folder} is not empty and holds no training runtime", "name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder.parent) as scratch:
            _install(scratch / "build")
            _move(scratch / "build", folder)
    except OSError as error:
        raise TrainingError(
            f"the training runtime cannot be set up in {folder}: {error}",
            f"name a writable folder with {FOLDER_VARIABLE}",
        ) from error
    return folder


def _install(folder: Path) -> None:
    """Let pip of this interpreter put the wheel, and nothing it depends on, into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--target", str(folder), REQUIREMENT]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode or not _holds_training_build(folder):
        complaint = (outcome.stderr or outcome.stdout).strip().splitlines() or ["pip said nothing"]
        raise TrainingError(
            f"pip could not install {REQUIREMENT}: {complaint[-1]}",
            f"install it by hand: {' '.join(command)}, and name the folder with {FOLDER_VARIABLE}",
        )


def _move(built: Path, folder: Path) -> None:
    """Rename into place; whoever else finished first wins."""
    try:
        if folder.exists():
            folder.rmdir()
        built.rename(folder)
    except OSError:
        if not _holds_training_build(folder):
            raise
        shutil.rmtree(built)


def _holds_training_build(folder: Path) -> bool:
    return (folder / "onnxruntime" / "training" / "api" / "module.py").is_file()


def _require_wheel() -> None:
    """Say so where nobody has built a wheel."""
    everything_else = (
        "every command but finetune works here; finetune on Python 3.10 to 3.12 on x86-64 or macOS"
    )
    if sys.version_info >= (3, 13):
        found = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        raise TrainingError(f"there is no {REQUIREMENT} for {found}", everything_else)
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64") and sys.platform != "darwin":
        raise TrainingError(f"there is no {REQUIREMENT} for {machine}", everything_else)


def _user_data_folder() -> Path:
    """Return the folder for a user's data, as each platform has it."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    variable, fallback = (
        ("LOCALAPPDATA", "AppData/Local") if os.name == "nt" else ("XDG_DATA_HOME", ".local/share")
    )
    named = os.environ.get(variable, "")
    return Path(named) if named else Path.home() / fallback
