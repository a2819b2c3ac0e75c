"""Scratch folders: gone afterwards, after any end of the process that made them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.support import staging
from onnxprune.support.staging import SCRATCH, publish, scratch_folder, sweep

HOLDER = """
import os, sys
from pathlib import Path
from onnxprune.support.staging import scratch_folder
with scratch_folder(Path(sys.argv[1])) as scratch:
    (scratch / "half").write_text("half")
    print(scratch, flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that is in the middle of making a file; return its scratch folder, too."""
    words = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_file_is_moved_into_its_place(tmp_path: Path) -> None:
    (tmp_path / "result").write_text("before")
    with scratch_folder(tmp_path) as scratch:
        (scratch / "result").write_text("after")
        (scratch / "more").write_text("")
        assert (tmp_path / "result").read_text() == "before"
        publish(scratch / "result", tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"result": "after"}


def test_leftovers_of_a_killed_process_go_when_the_next_one_writes(tmp_path: Path) -> None:
    process, left = holder(tmp_path)
    ended(process)
    assert (left / "half").exists()
    with scratch_folder(tmp_path) as scratch:
        assert list(tmp_path.iterdir()) == [scratch]
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_running_process_stay(tmp_path: Path) -> None:
    process, used = holder(tmp_path)
    with scratch_folder(tmp_path) as scratch:
        assert {used, scratch} == set(tmp_path.iterdir())
    assert (used / "half").read_text() == "half"
    ended(process)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_of_one_process_leave_each_other_alone(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as first:
        (first / "half").write_text("half")
        with scratch_folder(tmp_path) as second:
            assert {first, second} == set(tmp_path.iterdir())
        assert (first / "half").exists()


def test_a_folder_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a folder and locking it, another process may take it for one that was left."""
    taken, seen = staging._taken, list[Path]()

    def late(scratch: Path) -> object:
        seen.append(scratch)
        lock = taken(scratch)
        if len(seen) == 1:
            shutil.rmtree(scratch)
        return lock

    monkeypatch.setattr(staging, "_taken", late)
    with scratch_folder(tmp_path) as scratch:
        assert scratch.is_dir()
    assert len(seen) == 2
    assert seen[0] != seen[1] == scratch
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_of_such_a_name_stay(tmp_path: Path) -> None:
    (tmp_path / f"{SCRATCH}notes").write_text("mine")
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert (tmp_path / f"{SCRATCH}notes").read_text() == "mine"
