"""Runs for a device: the recipe names it, the work folder keeps its figures, and a failure keeps the rest."""

from __future__ import annotations

import json

import pytest
from recipes import RECIPE, recipe_in, write_recipe

from onnxprune.app.recipe import read_recipe
from onnxprune.app.runner import read_state, run
from onnxprune.errors import DeviceError, UsageError

FILE_SIZE = "cmd:sh -c 'wc -c < $1' sh {model}"
"""A device that needs a millisecond a byte."""
SETTINGS = ("schedule.iterations=1", "ana.enabled=false", "prune.criterion='l2'")
TEXT = RECIPE.replace("reduce_macs = 0.5", "reduce_latency = 0.1")


def text_for(backend: str) -> str:
    return TEXT.replace("[bench]", f'[bench]\nbackend = "{backend}"')


def test_run_for_a_device(tmp_path):
    recipe = read_recipe(write_recipe(tmp_path, text_for(FILE_SIZE)), SETTINGS)
    run(recipe)
    facts = read_state(tmp_path / "work")["steps"]["bench"]["facts"]
    assert facts["backend"] == FILE_SIZE
    assert facts["models"]["original"]["latency_ms"] > facts["models"]["dense"]["latency_ms"]
    (table,) = (tmp_path / "work").glob("latency-*.json")
    assert json.loads(table.read_text())["backend"] == FILE_SIZE


def test_run_goes_on_after_a_device_failed(tmp_path):
    """The first calls succeed; their times are in the work folder, and the original has been judged."""
    count = tmp_path / "calls"
    line = f"echo x >> {count}; test $(wc -l < {count}) -ne 30 && wc -c < $1"
    recipe = read_recipe(write_recipe(tmp_path, text_for(f"cmd:sh -c '{line}' sh {{model}}")), SETTINGS)
    with pytest.raises(DeviceError, match="exit code 1"):
        run(recipe)
    (table,) = (tmp_path / "work").glob("latency-*.json")
    kept = len(json.loads(table.read_text())["networks"])
    assert kept > 0
    assert "baseline" in read_state(tmp_path / "work")["steps"]
    run(recipe)
    assert len(json.loads(table.read_text())["networks"]) > kept


def test_recipes_refuse_unknown_back_ends(tmp_path):
    with pytest.raises(UsageError, match="there is no latency back-end 'warp'"):
        recipe_in(tmp_path, "bench.backend='warp'")


def test_tables_of_a_recipe_count_from_its_folder(tmp_path):
    assert recipe_in(tmp_path, "bench.table='board.json'").bench.table == str(tmp_path / "board.json")
