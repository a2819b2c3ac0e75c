"""Use of the processors by other programs, checked before threads may spin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.support import processors
from onnxprune.support.processors import idle, usable_processors


@pytest.mark.parametrize(("running", "expected"), [(1, True), (1 + usable_processors(), False)])
def test_idleness_is_judged_by_running_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: int, expected: bool
) -> None:
    """The load of the last minute says nothing, the number of threads that run does."""
    said = tmp_path / "loadavg"
    said.write_text(f"9.00 9.00 9.00 {running}/200 1234\n")
    monkeypatch.setattr(processors, "_LOAD", said)
    assert idle() is expected


@pytest.mark.parametrize("text", [None, "", "9.00 9.00 9.00 many/200 1234"])
def test_a_system_without_a_load_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    said = tmp_path / "loadavg"
    if text is not None:
        said.write_text(text)
    monkeypatch.setattr(processors, "_LOAD", said)
    assert not idle()


def test_a_machine_at_work_is_not_idle() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_processors())]
    try:
        assert not idle()
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"pod/cpu.max": "100000 100000", "pod/own/cpu.max": "max 100000"}, 1),
    ],
)
def test_the_time_that_a_container_may_use_limits_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text("0::/pod/own\n9:name=systemd:/\nmalformed\n")
    monkeypatch.setattr(processors, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(processors, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert processors.processor_quota() == expected
    assert usable_processors() == (expected or 16)
