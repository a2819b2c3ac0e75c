"""Use of the processors by other programs, checked before threads may spin."""

from __future__ import annotations

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
