from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
from recipes import RECIPE, write_recipe

from onnxprune.app.recipe import read_recipe

pytestmark = pytest.mark.slow


def call(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    recipe = write_recipe(folder)
    call("run", recipe)
    return folder


def test_run_twice(place):
    done = call("run", place / "recipe.toml")
    assert "nothing to do" in done.stdout
    assert "to go" in done.stderr
    assert "1-prune: as before" in done.stderr
    assert (place / "work" / "report.html").is_file()


def test_run_writes_json(place, tmp_path):
    done = call(
        "run", place / "recipe.toml", "--folder", tmp_path / "new", "--set", "schedule.iterations=1", "--json"
    )
    facts = json.loads(done.stdout)
    assert facts["best_iteration"] == 1
    assert facts["folder"] == str(tmp_path / "new")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [e["step"] for e in events if e["event"] == "done"][-1] == "bench"


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are those of POSIX")
def test_in_a_terminal_there_is_a_board(place, tmp_path):
    ours, theirs = os.openpty()
    command = [
        sys.executable,
        "-m",
        "onnxprune",
        "run",
        str(place / "recipe.toml"),
        "--folder",
        str(tmp_path / "w"),
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as running:
        os.close(theirs)
        drawn = b""
        closed = contextlib.suppress(OSError)  # Linux reports a closed other end so
        with os.fdopen(ours, "rb", buffering=0) as terminal, closed:
            while piece := terminal.read(4096):
                drawn += piece
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    for words in ("round", "analysis", "original", "50% to be removed", "to go"):
        assert words in drawn.decode()
    assert "Traceback" not in drawn.decode()
    assert b"dense model" in out


def test_a_wrong_recipe_is_wrong_usage(place, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(RECIPE.replace("iterations = 2", 'rise = "up"'))
    done = call("run", path, code=2)
    assert "line 13: schedule.rise is 'up'" in done.stderr
    assert "hint:" in done.stderr
    assert call("run", place / "recipe.toml", "--set", "prune.criterion=none", code=2).stdout == ""
    done = call("run", place / "recipe.toml", "--set", "typo.key=1", code=2)
    assert "recipe.toml, --set: there is no key typo" in done.stderr
    done = call("run", tmp_path / "none.toml", code=2)
    assert "error: no such file: " in done.stderr
    assert "Errno" not in done.stderr


def test_report_in_both_formats(place, tmp_path):
    assert "report:" in call("report", place / "work", "-o", tmp_path / "page.html").stdout
    facts = json.loads(call("report", place / "work", "-o", tmp_path / "page.md", "--json").stdout)
    assert facts["format"] == "md"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "page.md").read_text().startswith("# net.onnx")
    made = call("report", place / "work", "--figures", tmp_path / "svg", "-o", tmp_path / "page.html")
    assert made.stdout
    assert len(list((tmp_path / "svg").glob("*.svg"))) > 3
    assert "there is no run" in call("report", tmp_path, "-o", tmp_path / "x.html", code=2).stderr


def test_init_then_run(place, tmp_path):
    path = tmp_path / "recipe.toml"
    facts = json.loads(
        call("init", place / "net.onnx", "--data", place / "train.npz", "-o", path, "--json").stdout
    )
    assert facts["metric"] == "top1"
    assert read_recipe(path).model == str(place / "net.onnx")
    assert "is there already" in call("init", place / "net.onnx", "-o", path, code=2).stderr
    call(
        *("run", path, "--set", f"data.val={place / 'val.npz'}", "--set", "finetune.epochs=0"),
        *("--set", "schedule.iterations=1", "--set", "prune.round_to=1", "--set", "stop.max_drop=1.0"),
    )
    assert (tmp_path / "recipe-run" / "dense.onnx").is_file()


LOADER = """\
import numpy
from pathlib import Path

def val():
    held = numpy.load(Path(__file__).with_name("val.npz"))
    yield {"image": held["image"]}, {"labels": held["labels"]}
"""


def test_modules_are_found_beside_the_recipe(place, tmp_path):
    (place / "beside_it.py").write_text(LOADER)
    words = ("--folder", tmp_path / "w", "--set", "data.val=beside_it:val", "--set", "schedule.iterations=1")
    assert "best" in call("run", place / "recipe.toml", *words).stdout
