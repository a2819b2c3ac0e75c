"""Installation: the archives hold the packages and nothing else, and work far from the sources."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import onnxprune

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODEL = ROOT / "models" / "mnist_cnn.onnx"
BUILD = "import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
CLUTTER = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist", "out"
)
LINKED = ("passes", "models")
"""Packages whose folders lie beside the package they belong to."""


def packages_on_disk() -> dict[str, Path]:
    """Every folder with modules in it, by the name it is imported by."""
    inits = [p for p in (ROOT / "onnxprune").rglob("__init__.py") if not linked(p)]
    found = {".".join(p.parent.relative_to(ROOT).parts): p.parent for p in inits}
    return found | {f"onnxprune.{name}": ROOT / name for name in LINKED}


def linked(path: Path) -> bool:
    """Return whether a file is seen through the link of a folder that lies beside the package."""
    return any(name in path.parts for name in LINKED)


def files_on_disk() -> set[str]:
    return {
        f"{name.replace('.', '/')}/{path.name}"
        for name, folder in packages_on_disk().items()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_listed_packages_are_those_on_disk():
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted(packages_on_disk())


def test_every_folder_with_modules_is_a_package():
    folders = {p.parent for p in (ROOT / "onnxprune").rglob("*.py") if not linked(p)}
    assert folders == set(packages_on_disk().values()) - {ROOT / name for name in LINKED}


@pytest.mark.parametrize("name", LINKED)
def test_linked_packages_are_one_folder_under_two_names(name):
    assert (ROOT / "onnxprune" / name).resolve() == ROOT / name


def test_nothing_imports_the_folder_passes_by_its_own_name():
    for path in [
        p for folder in ("onnxprune", "passes", "tests", "examples") for p in (ROOT / folder).rglob("*.py")
    ]:
        assert not re.search(r"^\s*(?:from|import)\s+passes\b", path.read_text("utf-8"), re.MULTILINE), path


def test_extras_that_hints_name_exist():
    said = [p.read_text("utf-8") for p in (ROOT / "onnxprune").rglob("*.py")] + [
        (ROOT / "Makefile").read_text("utf-8")
    ]
    named = {
        extra
        for text in said
        for found in re.findall(r"(?:onnxprune|\.)\[([a-z,]+)\]\"", text)
        for extra in found.split(",")
    }
    assert named <= set(PROJECT["project"]["optional-dependencies"])
    assert {"cpu", "all"} <= named


def test_all_places_state_one_version():
    assert onnxprune.__version__ == PROJECT["project"]["version"]


def test_pythons_are_those_that_are_classified():
    named = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    assert named == ["3.10", "3.11", "3.12", "3.13"]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def build(kind: str, source: Path, folder: Path) -> Path:
    """Call the build backend as `pip` does, but in this environment: no network is needed."""
    folder.mkdir()
    command = [sys.executable, "-c", BUILD.format(kind=kind), str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT, folder / "copy", symlinks=True, ignore=CLUTTER)
    return build("sdist", folder / "copy", folder / "sdist")


@pytest.fixture(scope="module")
def unpacked(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(source_archive) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive as `python -m build` does."""
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.mark.slow
def test_wheel_holds_the_packages_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert set(names) == files_on_disk()
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_wheel_is_for_every_machine_and_names_its_licence(wheel: Path):
    assert wheel.name == f"onnxprune-{PROJECT['project']['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("METADATA"))
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert "License-Expression: Apache-2.0" in metadata
    assert "# onnxprune" in metadata


def test_source_archive_holds_the_files_of_its_tests(unpacked: Path):
    for name in (
        "Makefile",
        "tests/test_packaging.py",
        "models/SHA256SUMS",
        "examples/demo.py",
        "passes/base.py",
    ):
        assert (unpacked / name).is_file(), name


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; its dependencies are lent by the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(paths["purelib"], "lent.pth").write_text("\n".join(sorted(lent)) + "\n", "utf-8")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(Path(paths["scripts"], "python")),
        "install",
        "--quiet",
    ]
    pip += ["--no-deps", "--no-index", "--ignore-installed", "--no-compile", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return Path(paths["scripts"])


def run(installed: Path, folder: Path, program: str, *words: str) -> str:
    """Run a program of that environment in some folder; return its standard output."""
    command = [str(installed / program), *words]
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.mark.slow
def test_installed_wheel_works_from_another_folder(installed: Path, tmp_path: Path):
    said = run(
        installed, tmp_path, "python", "-W", "error", "-m", "onnxprune", "inspect", str(MODEL), "--json"
    )
    assert len(json.loads(said)["groups"]) == 7


@pytest.mark.slow
def test_installed_wheel_is_the_imported_one(installed: Path, tmp_path: Path):
    said = run(installed, tmp_path, "python", "-c", "import onnxprune.passes.prune as m; print(m.__file__)")
    assert Path(said.strip()).is_relative_to(installed.parent)


def test_installed_wheel_brings_the_bundled_networks(installed: Path, tmp_path: Path):
    made = run(installed, tmp_path, "python", "-m", "onnxprune.models", "models").splitlines()
    assert made[:2] == ["models/clothes_train.npz", "models/clothes_val.npz"]
    trained, kinds = ("fashion_mobile", "mnist_cnn"), ("detector", "transformer", "decoder", "audio")
    assert made[2:] == [f"models/{name}.onnx" for name in (*trained, *kinds)]
    assert all(onnxprune.load(tmp_path / name).nodes for name in made[2:])
    assert (tmp_path / made[3]).read_bytes() == MODEL.read_bytes()


def test_installed_command_prints_its_version(installed: Path, tmp_path: Path):
    assert PROJECT["project"]["version"] in run(installed, tmp_path, "onnxprune", "--version")
