from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys

import networks_on_disk as disk
import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from onnxprune.app import console
from onnxprune.app.console import Bars, ProgressLines, show_progress
from onnxprune.support.progress import reporting, task, tell, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_short_steps_say_nothing_where_there_are_no_bars(capsys, clock):
    with show_progress():
        for _ in track(range(10), "quick"):
            clock[0] += 0.4
    assert capsys.readouterr() == ("", "")


def test_long_steps_say_now_and_then_where_they_are(capsys, clock):
    with reporting(ProgressLines()), task("ana", total=9) as step:
        for k in range(9):
            clock[0] += 2
            step.advance(note=f"group {k}" if k % 2 else "")
    assert capsys.readouterr() == ("", "ana: 3/9 group 1\nana: 6/9 group 5\nana: 9/9 group 7\n")


def test_steps_of_unknown_length_count(capsys, clock):
    with reporting(ProgressLines()), task("read") as step:
        clock[0] += 6
        step.advance(5)
    assert capsys.readouterr().err == "read: 5\n"


def test_bars_show_names_and_notes_as_they_are():
    screen = io.StringIO()
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[note]}"))
    bars = Progress(*columns, console=Console(file=screen, force_terminal=True, width=80), auto_refresh=False)
    with bars, reporting(Bars(bars)), task("[red]ana[/]", total=2) as step:
        step.advance(note="group [x]")
        step.advance()
        bars.refresh()
        assert bars.tasks[0].completed == 2
    assert "[red]ana[/] group [x]" in screen.getvalue()
    assert bars.tasks == []


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are those of POSIX")
def test_bars_are_drawn_in_a_terminal_and_not_in_the_result(tmp_path):
    model = disk.save(disk.network(), tmp_path / "model.onnx")
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "onnxprune", "bench", model, "--runs", "20", "--json"]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    ) as running:
        os.close(theirs)
        drawn = b""
        closed = contextlib.suppress(OSError)  # Linux reports a closed other end so
        with os.fdopen(ours, "rb", buffering=0) as terminal, closed:
            while piece := terminal.read(4096):
                drawn += piece
        out, _ = running.communicate(timeout=60)
    assert b"measure latency" in drawn
    assert len(disk.Outcome(running.returncode, out, "").facts["models"]) == 1


def test_quiet_steps_print_nothing_and_messages_remain(capsys, clock):
    with show_progress(-1), task("ana", total=2) as step:
        clock[0] += 9
        step.advance()
        tell("a warning")
    assert capsys.readouterr() == ("", "a warning\n")


def test_verbose_steps_say_when_they_start_and_how_long_they_take(capsys, clock):
    with show_progress(1), task("ana", total=2) as step:
        clock[0] += 3
        step.advance()
    assert capsys.readouterr().err == "ana\nana: 3.0 s\n"


def test_quiet_and_verbose_contradict_each_other(tmp_path):
    model = disk.save(disk.network(), tmp_path / "model.onnx")
    outcome = disk.run("inspect", model, "-q", "-v")
    assert outcome.code == 2
    assert "contradict" in outcome.err
