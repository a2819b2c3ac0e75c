"""Names with brackets, literally or as globs; steps of rounding that are kept."""

from __future__ import annotations

from pathlib import Path

import networks_on_disk as disk
import pytest
from places import CASES

from onnxprune.support.globs import matching

BRACKETS = CASES / "brackets.onnx"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a[0]", {"a[0]"}),
        ("a[1]", {"a1"}),
        ("a*", {"a0", "a1", "a[0]", "a[0]/b"}),
        ("a[0]*", {"a0"}),
        ("a[0]/*", {"a[0]/b"}),
        ("c", set()),
    ],
)
def test_names_come_before_globs(pattern: str, found: set[str]) -> None:
    assert matching(pattern, ["a0", "a1", "a[0]", "a[0]/b"]) == found


def test_names_that_inspect_prints_can_be_excluded(tmp_path: Path) -> None:
    names = [g["name"] for g in disk.run("inspect", BRACKETS, "--json").facts["groups"]]
    assert len(names) == 3
    for name in names:
        facts = disk.run("inspect", BRACKETS, "--exclude", name, "--json").facts
        out = {g["name"] for g in facts["groups"] if not g["selected"]}
        assert out == {g["name"] for g in facts["groups"] if name in (g["name"], *g["nodes"])}
    only = disk.run("inspect", BRACKETS, "--only", names[0], "--json").facts
    assert [g["name"] for g in only["groups"] if g["selected"]] == [names[0]]
    out = tmp_path / "out.onnx"
    limits = ("--keep-at-least", f"{names[0]}=12", "--round-to", 1)
    facts = disk.run("prune", BRACKETS, "--reduce-channels", 0.5, *limits, "-o", out, "--json").facts
    assert facts["groups"].get(names[0], {"after": 16})["after"] >= 12


def test_part_of_a_name_with_brackets_is_a_glob() -> None:
    facts = disk.run("inspect", BRACKETS, "--exclude", "Net/Sequential[features]/Block[2]/*", "--json").facts
    assert sum(not g["selected"] for g in facts["groups"]) >= 1


@pytest.mark.parametrize(("step", "kept"), [(16, 16), (None, 24)])
def test_an_explicit_step_is_kept(step: int | None, kept: int, tmp_path: Path) -> None:
    words = ("--reduce-channels", 0.25, "--strategy", "uniform", *(("--round-to", step) if step else ()))
    out = tmp_path / "out.onnx"
    facts = disk.run("prune", CASES / "narrow_round_to.onnx", *words, "-o", out, "--json").facts
    counts = {g["after"] for g in facts["groups"].values()} | set()
    assert all(n % (step or 8) == 0 for n in counts)
    assert kept in counts
