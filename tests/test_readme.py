"""The README shows the real output of its commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxprune import datasets

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MODEL = ROOT / "models" / "mnist_cnn.onnx"
MEASURED = ("finetune", "bench")  # their output differs from machine to machine


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def transcript() -> list[tuple[list[str], list[str]]]:
    """The commands shown, as words, each with the lines it is shown to print."""
    pieces = [piece for block in blocks("console") for piece in block.split("$ ")[1:]]
    lines = [piece.splitlines() for piece in pieces]
    return [(shlex.split(first), shown) for first, *shown in lines]


def words(line: str) -> str:
    return " ".join(line.split())


def run(command: list[str], folder: Path) -> list[str]:
    """Run a command with the interpreter of the tests; return the lines of its output."""
    assert command[:2] == ["python", "-m"]
    assert command[2].split(".")[0] == "onnxprune"
    outcome = subprocess.run(
        [sys.executable, *command[1:]], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return [words(line) for line in outcome.stdout.splitlines()]


def is_shown(line: str, printed: list[str]) -> bool:
    """Return whether a line was printed, up to where it was cut."""
    start, cut, _ = words(line).partition("…")
    return any(found.startswith(start.strip()) if cut else found == start for found in printed)


def without_errors(lines: list[str]) -> list[str]:
    """Drop rounding errors and the number of runs, which differ from machine to machine."""
    return [re.sub(r"on \d+ runs|max_rel_error \S+, ", "", line) for line in lines]


def test_every_stage_is_shown():
    assert [" ".join(command[2:4]) for command, _ in transcript()] == [
        "onnxprune.models models",
        *(f"onnxprune {step}" for step in ("inspect", "prune", "transform", "bench")),
    ]


def test_first_commands_print_the_shown_output(tmp_path: Path):
    """In an empty folder: nothing of a clone is needed."""
    for command, shown in transcript()[:2]:
        printed = run(command, tmp_path)
        assert [line for line in shown if not is_shown(line, printed)] == []


@pytest.mark.slow
def test_transcript_is_true(tmp_path: Path):
    """Latency differs from machine to machine; all else is as shown."""
    for command, shown in transcript():
        printed = without_errors(run(command, tmp_path))
        if command[3] not in MEASURED:
            assert [line for line in without_errors(shown) if not is_shown(line, printed)] == []
    first, second = [line for line in printed if line.split(" ")[0].endswith(".onnx")]
    assert float(second.split()[-1]) > float(first.split()[-1]) - 0.02


def save_digits(folder: Path, name: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.random((count, 1, 28, 28), dtype=np.float32)
    np.savez(folder / name, image=images, labels=rng.integers(0, 10, count))


@pytest.mark.slow
def test_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (code,) = blocks("python")
    shutil.copy(MODEL, tmp_path / "model.onnx")
    save_digits(tmp_path, "train.npz", 128, seed=0)
    save_digits(tmp_path, "val.npz", 64, seed=1)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    before, after = (
        int(number.replace(",", "")) for number in re.findall(r"[\d,]+", capsys.readouterr().out)
    )
    assert 0.59 < 1 - after / before < 0.61
    assert (tmp_path / "small.onnx").stat().st_size < 0.6 * MODEL.stat().st_size


@pytest.mark.slow
def test_example_composes_the_passes(tmp_path: Path):
    save_digits(tmp_path, "train.npz", 128, seed=0)
    save_digits(tmp_path, "val.npz", 64, seed=1)
    command = [
        sys.executable,
        str(ROOT / "examples" / "compose_passes.py"),
        "train.npz",
        "val.npz",
        "small.onnx",
    ]
    command += ["--reductions", "0.2", "0.5", "--tolerance", "1"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "50% of the MACs removed" in outcome.stdout
    assert (tmp_path / "small.onnx").stat().st_size < 0.7 * MODEL.stat().st_size


@pytest.mark.slow
def test_example_of_own_data_and_metric():
    run_in = ROOT / "examples"
    command = ["python", "-m", "onnxprune", "bench", "../models/mnist_cnn.onnx", "--runs", "1"]
    printed = run([*command, "--data", "own_data:strokes", "--metric", "own_data:worst_class"], run_in)
    assert any(line.endswith("1.0000") for line in printed)


def test_named_files_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_named_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\bmake ([a-z-]+) +#", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_named_data_exists():
    for name in re.findall(r"onnxprune\.datasets:(\w+)", README):
        assert callable(getattr(datasets, name))
