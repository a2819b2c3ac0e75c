"""Text of others in the program's output: plain text wherever it is shown."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import networks_on_disk as disk
import onnx
import pytest

from onnxprune.app.recipe import read_recipe
from onnxprune.app.report import plots, render
from onnxprune.support.wording import clean, escaped, folded, in_markdown, in_toml, sentence, shortened, shown

pytestmark = pytest.mark.slow


NAMES = {
    "escape sequence": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "one character csi": "\x9b31mred",
    "closing tag": "a[/]b",
    "tag": "[stage1]conv",
    "link tag": "[link=http://example.org]x[/link]",
    "backslash": "a\\",
    "carriage return": "good\rbad",
    "new line": "x\nerror: forged\nhint: forged",
    "backspace": "abc\b\b\b",
    "direction": "a\u202egnp.exe",
    "invisible": "a\u200bb\u2066\ufeff",
    "line separator": "a\u2028b\u0085c\x0bd\x1ce",
    "html": "<img src=x onerror=alert(1)>",
    "table": "a|b`c`*d*_e_",
    "markdown link": "![x](http://example.org)",
    "emoji": ":skull:",
    "formula": "$\\frac{$",
    "long": "long" * 5_000,
    "chinese": "卷积",
    "braces": "{% raw %}{{ 7*7 }}{0}%s",
    "quotes": '\'"""]\n[budget]\nreduce_macs = 0.9\n\x7f',
}
ACTING = {"Cc", "Cf", "Zl", "Zp"}


def renamed(name: str) -> onnx.ModelProto:
    """Return the network with a name before all names in it."""
    proto = disk.network()
    proto.graph.name = name
    for node in proto.graph.node:
        node.name = f"{name}{node.name}"
        node.input[:] = [f"{name}{i}" for i in node.input]
        node.output[:] = [f"{name}{o}" for o in node.output]
    for held in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        held.name = f"{name}{held.name}"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    return proto


def acting(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ACTING} - {"\n"}


ALWAYS = {"inspect", "error"}
"""Commands that are quick with every name; the others are with one name of each kind."""
KINDS = {"escape sequence", "closing tag", "new line", "quotes"}


def some_slow(quick: Callable[[str, str], bool], firsts: Iterable[str], seconds: Iterable[str]) -> list[Any]:
    """Return all pairs of words as parameters, those slow that need not be tried each time."""
    pairs = itertools.product(firsts, seconds)
    return [pytest.param(*p, marks=[] if quick(*p) else [pytest.mark.slow], id="-".join(p)) for p in pairs]


@pytest.mark.parametrize(
    ("command", "kind"),
    some_slow(
        lambda command, kind: command in ALWAYS or kind in KINDS,
        ("inspect", "prune", "recover", "transform", "ana", "bench", "init", "error"),
        NAMES,
    ),
)
def test_names_do_not_act(tmp_path: Path, kind: str, command: str) -> None:
    name = NAMES[kind]
    model = disk.save(renamed(name), tmp_path / "model.onnx")
    sparse = tmp_path / "sparse.onnx"
    data = disk.save_data(tmp_path / "data.npz", **{f"{name}image": disk.samples()["image"]})
    if command in ("recover", "transform"):
        assert disk.run("prune", model, "--reduce-channels", 0.5, "-o", sparse).code == 0
    words = {
        "inspect": (model,),
        "prune": (model, "--reduce-channels", 0.5, "-o", sparse),
        "recover": (sparse, "--original", model, "--samples", 8, "-o", tmp_path / "out.onnx"),
        "transform": (sparse, "-o", tmp_path / "out.onnx"),
        "ana": (model, "--data", data, "--metric", "kl", "--ratios", 0.5, "-o", tmp_path / "out.json"),
        "bench": (model, "--runs", 1),
        "init": (model, "-o", tmp_path / "out.toml"),
        "error": (model, "--reduce-channels", 0.5, "--only", f"{name}nothing", "-o", sparse),
    }[command]
    outcome = disk.run("prune" if command == "error" else command, *words)
    assert outcome.code == (1 if command == "error" else 0), outcome.err
    assert not acting(outcome.out + outcome.err)
    assert len(outcome.out + outcome.err) < 40_000
    assert not re.search(r"^(error|hint): forged", outcome.out + outcome.err, re.MULTILINE)
    if command == "inspect" and name.isprintable() and len(name) < 20:
        assert f"{name}conv1" in outcome.out
    if command == "init":
        assert not acting((tmp_path / "out.toml").read_text("utf-8"))
        found = read_recipe(tmp_path / "out.toml")
        assert found.budget.target == 0.5


@pytest.mark.parametrize(
    ("command", "encoding"),
    some_slow(
        lambda command, encoding: command == "error" or encoding == "ascii",
        ("ana", "transform", "error"),
        ("cp1252", "ascii", "utf-16"),
    ),
)
def test_any_encoding_of_the_terminal_does(tmp_path: Path, encoding: str, command: str) -> None:
    """Results are full of arrows, bars and minus signs; names hold any characters."""
    model = disk.save(renamed("卷积→"), tmp_path / "model.onnx")
    data = disk.save_data(tmp_path / "data.npz", **{"卷积→image": disk.samples()["image"]})
    sparse, out = tmp_path / "sparse.onnx", tmp_path / "out"
    assert disk.run("prune", model, "--reduce-channels", 0.5, "-o", sparse).code == 0
    words: tuple[object, ...] = {
        "ana": (model, "--data", data, "--metric", "kl", "--ratios", 0.5, "-o", out),
        "transform": (sparse, "-o", out),
        "error": (tmp_path / "卷积.onnx",),
    }[command]
    done = program("inspect" if command == "error" else command, *words, PYTHONIOENCODING=encoding)
    assert done.returncode == (1 if command == "error" else 0), done.stderr
    text = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in text
    assert out.exists() == (command in ("ana", "transform"))


def program(
    *words: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "onnxprune", *map(str, words)]
    place = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, timeout=120, check=False, cwd=cwd, env=place)


# --- streams


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", line.replace("onnxprune", f"{sys.executable} -m onnxprune")]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=folder)


STREAMS = {
    "stdout full": (">/dev/full", 1),
    "stdout closed": (">&-", 1),
    "stdin closed": ("<&-", 0),
    "stderr full": ("2>/dev/full", 0),
    "stderr closed": ("2>&-", 0),
    "both full": (">/dev/full 2>/dev/full", 1),
    "all closed": ("<&- >&- 2>&-", 1),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it has no full device")
@pytest.mark.parametrize(
    ("json", "how"),
    some_slow(lambda json, how: not json or how == "stdout full", ("", "--json"), STREAMS),
)
def test_streams_that_take_nothing(tmp_path: Path, how: str, json: str) -> None:
    disk.save(disk.network(), tmp_path / "model.onnx")
    streams, code = STREAMS[how]
    done = shell(f"onnxprune prune model.onnx --reduce-macs 0.3 -o out.onnx {json} {streams}", tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if code and "2>" not in streams:
        assert done.stderr.startswith("error: the result cannot be printed: ")
        assert "\nhint: " in done.stderr
    assert onnx.load(tmp_path / "out.onnx")


@pytest.mark.skipif(os.name != "posix", reason="a folder in use can be deleted on POSIX")
@pytest.mark.parametrize(
    "words", ["inspect model.onnx", "inspect {0}/model.onnx", "bench model.onnx", "run x.toml"]
)
def test_a_current_folder_that_is_gone(tmp_path: Path, words: str) -> None:
    disk.save(disk.network(), tmp_path / "model.onnx")
    (tmp_path / "gone").mkdir()
    done = shell(f"cd gone; rmdir ../gone; onnxprune {words.format(tmp_path)}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the current folder cannot be used")
    assert "Traceback" not in done.stderr


LOADERS = """
import sys
def leaves():
    sys.exit(0)
def leaves_later():
    yield {"image": np.zeros((8, 3, 8, 8), np.float32)}, {"labels": np.zeros(8, np.int64)}
    sys.exit(0)
def fails():
    raise OSError(5, "Input/output error")
def score(outputs, targets):
    raise SystemExit
"""


@pytest.mark.parametrize(
    "data",
    ["loader:leaves", "loader:leaves_later", "loader:fails", "leaver:x", "data.npz --metric loader:score"],
)
@pytest.mark.parametrize("command", ["ana", "bench", "transform", "verify", "prune", "recover", "init"])
def test_a_loader_does_not_end_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, data: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loader.py").write_text(LOADERS)
    (tmp_path / "leaver.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.delitem(sys.modules, "loader", raising=False)
    disk.save(disk.network(), tmp_path / "model.onnx")
    disk.save_data(tmp_path / "data.npz", **disk.samples())
    assert disk.run("prune", "model.onnx", "--reduce-macs", 0.3, "-o", "sparse.onnx").code == 0
    words = {
        "ana": ("model.onnx", "--data", data, "-o", "out"),
        "bench": ("model.onnx", "--runs", 1, "--data", data),
        "transform": ("sparse.onnx", "--data", data, "-o", "out"),
        "verify": ("sparse.onnx", "sparse.onnx", "--data", data),
        "prune": (
            "model.onnx",
            "--reduce-macs",
            0.3,
            "--criterion",
            "activation",
            "--data",
            data,
            "-o",
            "out",
        ),
        "recover": ("sparse.onnx", "--original", "model.onnx", "--data", data, "-o", "out"),
        "init": ("model.onnx", "--data", data, "-o", "out"),
    }[command]
    given = [part for word in words for part in str(word).split()]
    if "--metric" in given and command in ("transform", "verify", "init", "prune", "recover"):
        return
    if command == "bench" and "--metric" not in given:
        given += ["--metric", "top1"]
    if data == "loader:leaves_later" and command == "init":
        return  # it looks at the first batch only
    said = disk.run(command, *given).refused()
    assert "loader" in said or "leaver" in said
    assert not (tmp_path / "out").exists()


# --- reports


@pytest.fixture
def facts() -> dict[str, Any]:
    curve = {"ratios": [0.5], "values": [1.0], "worst_drop": 1.0}
    costs = {"macs": 10, "params": 10, "channels": 8, "size_bytes": 10}
    return {
        "model": "net.onnx", "metric": "top1", "budget": {"of": "macs", "target": 0.5},
        "original": {"score": 0.5, "val_score": 0.5, **costs}, "iterations": [], "result": None,
        "one_shot": None, "widths": [{"group": "a", "before": 8, "after": 4}],
        "curves": {"metric": "kl", "baseline": 0.0, "groups": {"a": curve}},
        "spared": {"a": 3}, "blocked": [{"node": "n", "operator": "Op", "reason": "why", "axes": ["w[0]"]}],
        "bench": {}, "recipe": {"model": "net.onnx"}, "threads": 1, "versions": {"onnx": "1"},
        "original_sha256": "0", "dense_sha256": None, "steps": [{"name": "baseline", "duration_s": 1.0}],
        "duration_s": 1.0,
    }  # fmt: skip


def everywhere(value: Any, name: str) -> Any:
    """Put a name into every text, numbers and keys aside."""
    if isinstance(value, dict):
        kept = {"of", "format"}
        return {k: v if k in kept else everywhere(v, name) for k, v in value.items()}
    if isinstance(value, list):
        return [everywhere(v, name) for v in value]
    return name + value if isinstance(value, str) else value


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("form", ["html", "md"])
def test_names_do_not_act_in_reports(facts: dict[str, Any], name: str, form: str) -> None:
    evil = everywhere(facts, name)
    evil["curves"]["groups"] = {f"{name}a": evil["curves"]["groups"]["a"]}
    evil["spared"] = {f"{name}a": 3}
    text = render(evil, form)
    assert not acting(text)
    assert "<img" not in text
    if form == "md":
        body = text.split("```json")[0]
        assert not re.search(r"(?<!\\)[\[\]`]", body)
        assert not re.search(r"(?<!\\)\*", body)
        assert len({line.replace("\\|", "").count("|") for line in body.splitlines() if "a |" in line}) <= 2
    assert "alert(1)>" not in text.replace("&gt;", "").replace("alert(1)>", "", 0) or form == "md"


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_do_not_act_in_figures(facts: dict[str, Any], name: str) -> None:
    pytest.importorskip("matplotlib")
    evil = everywhere(facts, name[:200])
    evil["curves"]["groups"] = {f"{name[:200]}a": evil["curves"]["groups"]["a"]}
    assert plots(evil, "png")


# --- the functions themselves


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_shown_names_are_short_and_still(name: str) -> None:
    assert not acting(shown(name))
    assert "\n" not in shown(name)
    assert len(shown(name)) <= 240
    assert not acting(sentence(f"node {name} of {name}"))


def test_plain_text_stays() -> None:
    for name in ("conv1", "a b", "/model/layers.0/Conv_output_0", "卷积", "é", "[stage1]conv"):
        assert shown(name) == escaped(name) == name


def test_long_names_keep_both_ends() -> None:
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shown("a" * 1000 + "end").endswith("end")


def test_names_that_are_alike_when_short_stay_apart() -> None:
    found = clean({"a" * 500 + "x" * 500 + "b" * 500: 1, "a" * 500 + "y" * 500 + "b" * 500: 2})
    assert list(found.values()) == [1, 2]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_toml_holds_any_name(name: str) -> None:
    tomllib = pytest.importorskip("tomllib")
    assert tomllib.loads(f"{in_toml(name)} = {in_toml(name)}") == {name: name}


def test_words_with_underscores_stay_readable_in_markdown() -> None:
    assert in_markdown("layer_1_conv") == "layer_1_conv"
    assert in_markdown("_e_") == "\\_e\\_"


def test_surrogates_are_shown_by_number() -> None:
    assert shown("a\udcffb") == "a\\udcffb"


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (80, "8*((max(0, min(n, k - 7)) + 7)//8) + f(n)"),
        (39, "8*((max(0, min(…)) + 7)//8) + f(n)"),
        (30, "8*((max(…) + 7)//8) + f(n)"),
        (25, "8*((…)//8) + f(n)"),
        (15, "8*(…) + f(…)"),
        (9, "8*(……f(…)"),
    ],
)
def test_long_expressions_lose_their_inner_brackets_first(longest: int, expected: str) -> None:
    found = folded("8*((max(0, min(n, k - 7)) + 7)//8) + f(n)", longest)
    assert found == expected
    assert len(found) <= longest
