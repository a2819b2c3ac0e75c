"""Inputs and outputs that shrink, in recipes, in ``shrink`` and as options of passes."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from cached_networks import CACHES, attention_with_caches, decoder, samples
from click.testing import CliRunner

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.cli import program
from onnxprune.app.recipe import Recipe, read_recipe
from onnxprune.app.runner import read_state, run
from onnxprune.decisions.channels.masks import masked
from onnxprune.ir import OPEN_KEY, Model, load, opened
from onnxprune.passes import Ana, Prune, Transform

OPEN = [part for pattern in CACHES for part in ("--open-io", pattern)]
SIZED = "inspect ana rotate separate factorize prune recover finetune transform verify bench init shrink"
OPTIONS = {
    "dims": SIZED,
    "input_shapes": SIZED,
    "open_io": "inspect ana prune transform verify init shrink",
    "allow_inexact": "inspect ana prune init shrink",
    "equal_layers": "prune shrink",
    "exclude": "inspect ana rotate factorize prune shrink",
    "only": "inspect ana rotate factorize prune shrink",
}
"""Commands by option; a sparse model carries the note of its open axes, so later commands need none."""


@pytest.mark.parametrize("option", OPTIONS)
def test_commands_have_the_options_of_open_axes(option: str) -> None:
    context = click.Context(program)
    commands = {name: program.get_command(context, name) for name in program.list_commands(context)}
    found = {name for name, command in commands.items() if option in {p.name for p in command.params}}
    assert found >= set(OPTIONS[option].split())


def test_recipes_have_them_too() -> None:
    assert {"dims", "shapes", "open_io"} <= set(Recipe.model_fields)
    fields = Recipe.model_fields["prune"].annotation.model_fields
    assert {"allow_inexact", "equal_layers", "exclude", "only"} <= set(fields)


def closed() -> Model:
    model = attention_with_caches().copy()
    model.set_metadata(OPEN_KEY, None)
    return model


def heads_fed(model: Model) -> int:
    return next(v for v in model.inputs if v.name == "past_key").type.tensor_type.shape.dim[1].dim_value


def written(folder: Path) -> Path:
    """The model and its samples as files."""
    onnx.save(closed().proto, folder / "net.onnx")
    np.savez(folder / "train.npz", **samples(16))
    return folder / "net.onnx"


def test_passes_take_patterns() -> None:
    model = closed()
    groups = {c.size for c in Ana(samples(8), "mse", (0.5,), open_io=CACHES)(model).analysis.curves.values()}
    assert 6 in groups
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1, open_io=CACHES)(model)
    assert heads_fed(Transform()(sparse).model) == 3
    assert OPEN_KEY not in model.metadata()


def test_zeros_of_another_program(tmp_path: Path) -> None:
    """Without a plan and without a note: options of the commands name the open axes."""
    channels = find_channels(opened(decoder(layers=1), CACHES))
    heads = next(g for g in channels.groups if g.size == 6)
    sparse = masked(channels, {heads.name: [0, 4]})
    sparse.set_metadata(OPEN_KEY, None)
    place, dense = tmp_path / "sparse.onnx", str(tmp_path / "dense.onnx")
    onnx.save(sparse.proto, place)
    for command in (["transform", str(place), *OPEN, "-o", dense], ["verify", str(place), dense, *OPEN]):
        outcome = CliRunner().invoke(program, [*command, "--json"], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        assert json.loads(outcome.stdout)["equal"]
    assert [d.dim_value for d in load(dense).inputs[1].type.tensor_type.shape.dim] == [2, 0, 4, 0, 8]


RECIPE = """
model = "net.onnx"
folder = "work"
threads = 1
metric = "mse"
open_io = ["past*", "present*"]
data = { train = "train.npz", val = "train.npz" }
budget = { reduce_channels = 0.5 }
schedule = { iterations = 2 }
ana = { enabled = true, ratios = [0.5], metric = "mse", samples = 8 }
prune = { round_to = 1, strategy = "sensitivity", equal_layers = true, evaluations = 3 }
finetune = { epochs = 0 }
bench = { runs = 1 }
"""


def test_a_recipe_lets_caches_shrink(tmp_path: Path) -> None:
    """Samples have all heads, and still serve to judge and time the shrunk model."""
    written(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    facts = run(read_recipe(tmp_path / "recipe.toml"))
    assert heads_fed(load(tmp_path / "work" / facts["dense"])) < 6
    steps = read_state(tmp_path / "work")["steps"]
    assert steps["transform"]["facts"]["equal"]
    assert steps["transform"]["facts"]["score"] == pytest.approx(facts["iterations"][-1]["score"], rel=1e-3)
    assert 6 in steps["baseline"]["facts"]["groups"].values()
    assert set(steps["bench"]["facts"]["models"]) == {"original", "1", "dense"}


@pytest.mark.parametrize("data", [pytest.param(True, marks=pytest.mark.slow), False])
def test_shrink_lets_caches_shrink(tmp_path: Path, data: bool) -> None:
    model, output = written(tmp_path), tmp_path / "small.onnx"
    given = ["--data", str(tmp_path / "train.npz"), "--minutes", "0", "--metric", "mse"] if data else []
    options = ["--reduce-macs", "0.4", "--equal-layers", *OPEN, "-o", str(output), "--json"]
    outcome = CliRunner().invoke(program, ["shrink", str(model), *given, *options], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert heads_fed(load(output)) < 6


def test_a_drafted_recipe_names_them(tmp_path: Path) -> None:
    model, place = written(tmp_path), tmp_path / "recipe.toml"
    command = ["init", str(model), *OPEN, "--allow-inexact", "-o", str(place)]
    assert CliRunner().invoke(program, command, catch_exceptions=False).exit_code == 0
    recipe = read_recipe(place)
    assert recipe.open_io == CACHES
    assert recipe.prune.allow_inexact
