"""Plans as files: written, read, edited, applied; limits from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networks_on_disk as disk
import numpy as np
import pytest

from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import PlanError
from onnxprune.ir import load
from onnxprune.search.plan_files import PlanFile, Width


@pytest.fixture
def model(tmp_path: Path) -> str:
    return disk.save(disk.network(), tmp_path / "model.onnx")


@pytest.fixture
def plan(tmp_path: Path, model: str) -> Path:
    out = tmp_path / "plan.json"
    words = ["--reduce-macs", 0.5, "--round-to", 1, "--plan-out", out, "--plan-only", "--json"]
    facts = disk.run("prune", model, *words).facts
    assert facts["output"] is None
    assert facts["plan_out"] == str(out)
    return out


def kept(path: Path) -> dict[str, int]:
    found = stored_plan(load(path))
    assert found is not None
    return {name: found.sizes[name] - len(gone) for name, gone in found.removed.items()}


def edited(plan: Path, **groups: Any) -> Path:
    content = json.loads(plan.read_text())
    for name, entry in groups.items():
        content["groups"][name] |= entry
    plan.write_text(json.dumps(content))
    return plan


def test_a_plan_gives_the_model_it_was_made_for(tmp_path: Path, model: str, plan: Path) -> None:
    direct, applied = tmp_path / "direct.onnx", tmp_path / "applied.onnx"
    assert disk.run("prune", model, "--reduce-macs", 0.5, "--round-to", 1, "-o", direct).code == 0
    assert disk.run("prune", model, "--plan", plan, "-o", applied).code == 0
    one, two = load(direct), load(applied)
    assert all(np.array_equal(one.array(name), two.array(name)) for name in one.constants)


def test_a_plan_is_read_by_people(plan: Path) -> None:
    lines = plan.read_text().splitlines()
    line = next(line for line in lines if '"conv2"' in line)
    assert '"size": 24' in line
    assert '"keep": ' in line


def test_an_edited_width_is_filled_up_by_the_ranking(tmp_path: Path, model: str, plan: Path) -> None:
    before = json.loads(plan.read_text())["groups"]["conv2"]
    for keep in (before["keep"] - 3, before["keep"] + 2):
        out = tmp_path / f"{keep}.onnx"
        assert disk.run("prune", model, "--plan", edited(plan, conv2={"keep": keep}), "-o", out).code == 0
        assert kept(out)["conv2"] == keep
        found = stored_plan(load(out))
        assert found is not None
        gone, listed = set(found.removed["conv2"]), set(before["removed"])
        assert gone <= listed or listed <= gone


def test_chosen_channels(tmp_path: Path, model: str, plan: Path) -> None:
    out = tmp_path / "out.onnx"
    chosen = {"keep": 21, "removed": [3, 5, 7]}
    assert disk.run("prune", model, "--plan", edited(plan, conv2=chosen), "-o", out).code == 0
    found = stored_plan(load(out))
    assert found is not None
    assert found.removed["conv2"] == (3, 5, 7)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"keep": 0}, "cannot keep 0"),
        ({"keep": 25}, "cannot keep 25"),
        ({"removed": [24]}, "cannot lose"),
        ({"removed": [1, 1]}, "cannot lose"),
        ({"keep": "many"}, "is no plan"),
        ({"size": 99, "keep": 40}, "99 channels"),
    ],
)
def test_impossible_plans(tmp_path: Path, model: str, plan: Path, entry: dict[str, Any], said: str) -> None:
    out = tmp_path / "out.onnx"
    assert said in disk.run("prune", model, "--plan", edited(plan, conv2=entry), "-o", out).refused()
    assert not out.exists()


def test_files_that_are_no_plans_are_refused(tmp_path: Path, model: str, plan: Path) -> None:
    out = tmp_path / "out.onnx"
    disk.run("prune", model, "--plan", plan, "--reduce-macs", 0.3, "-o", out).refused(code=2)
    for text in ("", "[]", "{}", '{"kind": "onnxprune plan", "format": 9, "groups": {}}'):
        plan.write_text(text)
        disk.run("prune", model, "--plan", plan, "-o", out).refused()
    disk.run("prune", model, "--plan", tmp_path / "none.json", "-o", out).refused()
    disk.run("prune", model, "--reduce-macs", 0.3, "--plan-only").refused(code=2)
    disk.run("prune", model, "--reduce-macs", 0.3).refused(code=2)


def test_removed_channels_stay_gone(tmp_path: Path, model: str, plan: Path) -> None:
    sparse, again = tmp_path / "sparse.onnx", tmp_path / "again.onnx"
    assert disk.run("prune", model, "--plan", plan, "-o", sparse).code == 0
    size = json.loads(plan.read_text())["groups"]["conv2"]["size"]
    wider = edited(plan, conv2={"keep": size, "removed": []})
    assert "gone already" in disk.run("prune", sparse, "--plan", wider, "-o", again).refused()


def test_text_and_back() -> None:
    widths = {"a": Width(4, 2, ((0, 3),)), "b": Width(6, 5, ((1,), (2,))), "c": Width(3, 2, ((),))}
    plan = PlanFile(widths, {"seed": 3})
    assert PlanFile.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match="is no plan"):
        PlanFile.from_json("{", "it")


# --- limits ------------------------------------------------------------------------------------------------


def test_limits_from_the_command_and_from_a_file(tmp_path: Path, model: str) -> None:
    out, file = tmp_path / "out.onnx", tmp_path / "limits.json"
    file.write_text(json.dumps({"keep_at_most": {"conv1": 9}, "keep_at_least": {"conv2": 20}}))
    words = ["prune", model, "--reduce-macs", 0.3, "--round-to", 1, "-o", out]
    assert disk.run(*words, "--limits", file).code == 0
    assert kept(out)["conv1"] <= 9
    assert kept(out).get("conv2", 24) >= 20
    assert disk.run(*words, "--limits", file, "--keep-at-most", "conv1=5").code == 0
    assert kept(out)["conv1"] <= 5
    disk.run(*words, "--keep-at-least", "conv1").refused(code=2)
    disk.run(*words, "--keep-at-least", "conv9=3").refused()
    file.write_text('{"at_most": {}}')
    disk.run(*words, "--limits", file).refused()


def test_several_budgets_and_the_size(tmp_path: Path, model: str) -> None:
    out, dense = tmp_path / "out.onnx", tmp_path / "dense.onnx"
    words = ["--reduce-macs", 0.3, "--reduce-size", 0.4, "--round-to", 1, "-o", out, "--json"]
    facts = disk.run("prune", model, *words).facts
    assert facts["macs_reduction"] >= 0.299
    assert disk.run("transform", out, "-o", dense).code == 0
    size = Path(model).stat().st_size
    assert facts["size_bytes_before"] == size
    assert dense.stat().st_size == pytest.approx(facts["dense_size_bytes"], rel=0.02)
    assert dense.stat().st_size <= 0.62 * size
