"""The folder of the training build of onnxruntime.

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
from onnxprune.support.staging import scratch_folder

REQUIREMENT = "onnxruntime-training-cpu==1.19.2"
SHA256 = (
    "3c62273370c6d4a459b30144353f8893f0cc8dfd02575b97deb38d2582aec21f",  # cp310, Linux
    "9b3cde497eb76af75ecae2eb2a4e3a8b2477da0b833315a3d5e2c63f0dc8d5d6",  # cp311, Linux
    "4c8d4806c5070dc6c175e1a968e45d948588edbfe590b5ef9d42d3511d80e220",  # cp312, Linux
    "e1268cecc39af7437cd48bebed37864c4d8b6aa760ff2ef6627d1dc283822698",  # cp310, Windows
    "e84887e098f4dff9a39926f8fe9d44bd59d0804c77b08a072d686264fea10889",  # cp311, Windows
    "b13775b3e4820f47ef24ee36b5b820cb04890a59c07d884eed0f3e4008d5c66f",  # cp312, Windows
    "71264887c9e17e353abc7c246552baf435cf3528958220525b17594c12177001",  # cp310, macOS
    "ca021bfb7d087ec2f9b689825d4c24cd75082c0c8eb61c7fb5b178ed1977cbdc",  # cp311, macOS
    "29ce7b60bd9d20efc054cf6cf02608360e074ad437945985050d667874903840",  # cp312, macOS
)
"""SHA-256 of the wheels that this version was tested with; pip refuses all others."""
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
    """Let pip of this interpreter put the wheel, and nothing it depends on, into a folder.

    It runs beside that folder: pip would be imported from the current one.
    """
    pinned = folder.with_name("requirements.txt")
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in SHA256)
    pinned.write_text(f"{REQUIREMENT} {hashes}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--target", str(folder)]
    checked = [*command, "--require-hashes", "-r", str(pinned)]
    outcome = subprocess.run(checked, capture_output=True, text=True, check=False, cwd=folder.parent)
    if outcome.returncode or not _holds_training_build(folder):
        output = (outcome.stderr or outcome.stdout).strip().splitlines() or ["pip printed nothing"]
        failure = next((line for line in output if line.startswith("ERROR")), output[-1])
        by_hand = " ".join([*command, REQUIREMENT])
        raise TrainingError(
            f"pip could not install {REQUIREMENT}: {failure}",
            f"install it by hand: {by_hand}, and name the folder with {FOLDER_VARIABLE}",
        )


def _move(built: Path, folder: Path) -> None:
    """Rename into place; a build of another process that is already there stays."""
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
    """Raise an error on platforms and Python versions without a wheel."""
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
