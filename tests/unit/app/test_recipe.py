from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT
from recipes import RECIPE, write_recipe

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.recipe import Recipe, ScheduleSection, line_of, read_recipe
from onnxprune.app.runner.recipe_template import RecipeRequest, draft
from onnxprune.errors import UsageError
from onnxprune.ir import load


@pytest.mark.parametrize(
    ("line", "wrong", "said"),
    [
        (
            "reduce_macs = 0.5",
            "reduce_macs = 1.5",
            "line 10: budget.reduce_macs is 1.5: it should be less than 1",
        ),
        (
            "reduce_macs = 0.5",
            "reduce_mac = 0.5",
            "line 10: there is no key budget.reduce_mac; did you mean reduce_macs?",
        ),
        (
            "iterations = 2",
            'rise = "cubci"',
            "line 13: schedule.rise is 'cubci': it should be 'linear' or 'cubic'",
        ),
        ("iterations = 2", "reductions = [0.4, 0.3]", "reductions must rise"),
        ("iterations = 2", "reductions = [0.1, 0.3]", "the last of schedule.reductions must be the budget"),
        ("epochs = 0", 'epochs = "many"', "line 22: finetune.epochs is 'many'"),
        ("threads = 1", "threads = 0", "line 3: threads is 0"),
        ('train = "train.npz"', "", "line 5: data.train is missing"),
        ("reduce_macs = 0.5", "reduce_macs = 0.5\nreduce_params = 0.5", "give one of reduce_macs"),
        (
            "round_to = 1",
            'criterion = "l3"',
            "line 19: prune.criterion is 'l3': unknown",
        ),
        ("round_to = 1", 'strategy = "best"', "line 19: prune.strategy is 'best'"),
        ("round_to = 1", "keep_at_least = { c1 = 0 }", "line 19: prune.keep_at_least.c1 is 0"),
    ],
)
def test_mistakes_are_named_with_line_and_allowed_values(tmp_path, line, wrong, said):
    path = tmp_path / "recipe.toml"
    assert line in RECIPE
    path.write_text(RECIPE.replace(line, wrong))
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    assert said in caught.value.message


def test_all_mistakes_are_reported_at_once(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("epochs = 0", "epochs = -1").replace("runs = 1", "runs = 0"))
    with pytest.raises(UsageError, match=r"finetune\.epochs(.|\n)*bench\.runs"):
        read_recipe(path)


def test_a_file_that_is_no_toml_or_is_not_there(tmp_path):
    (tmp_path / "bad.toml").write_text("model = \n")
    with pytest.raises(UsageError, match="line 1"):
        read_recipe(tmp_path / "bad.toml")
    with pytest.raises(UsageError, match="no such file"):
        read_recipe(tmp_path / "missing.toml")


def test_overrides_count_and_are_checked(tmp_path):
    path = write_recipe(tmp_path)
    recipe = read_recipe(path, ["finetune.epochs=3", "stop.floor=0.5", "metric=top5", 'prune.exclude=["c1"]'])
    assert (recipe.finetune.epochs, recipe.stop.floor, recipe.metric) == (3, 0.5, "top5")
    assert recipe.prune.exclude == ("c1",)
    with pytest.raises(UsageError, match=r"--set: finetune\.lr is -1"):
        read_recipe(path, ["finetune.lr=-1"])
    for text in ("epochs", "=3", "model.name=3"):
        with pytest.raises(UsageError):
            read_recipe(path, [text])


KEYS = [
    (*under, key)
    for name, field in Recipe.model_fields.items()
    for under, keys in [((name,), getattr(field.annotation, "model_fields", None))]
    for key in (keys or [None])
]


@pytest.mark.parametrize("keys", [tuple(filter(None, keys)) for keys in KEYS], ids=".".join)
def test_every_key_can_be_set_on_the_command_line(tmp_path, keys):
    path, name = tmp_path / "recipe.toml", ".".join(keys)
    path.write_text(RECIPE)
    with pytest.raises(UsageError, match=rf"--set: {re.escape(name)} is "):
        read_recipe(path, [f"{name}=[[]]"])  # known, and refused for its value


def test_paths_count_from_the_recipe_and_references_stay(tmp_path):
    path = write_recipe(tmp_path, RECIPE.replace('"val.npz"', '"onnxprune.datasets:mnist_test"'))
    recipe = read_recipe(path)
    assert recipe.model == str(tmp_path / "net.onnx")
    assert recipe.folder == str(tmp_path / "work")
    assert recipe.data.train == str(tmp_path / "train.npz")
    assert recipe.data.val == "onnxprune.datasets:mnist_test"


def test_schedules():
    assert ScheduleSection(iterations=4).planned(0.8) == (0.2, 0.4, 0.6, 0.8)
    assert ScheduleSection(iterations=2, rise="cubic").planned(0.8) == (0.7, 0.8)
    assert ScheduleSection(reductions=(0.1, 0.8)).planned(0.8) == (0.1, 0.8)
    assert ScheduleSection(iterations=1).planned(0.7) == (0.7,)


def test_lines_are_found_in_their_sections():
    text = 'a = 1\n[x]\na = 2\n[ y ]\n"b" = 3\n'
    assert line_of(text, ("a",)) == 1
    assert line_of(text, ("x", "a")) == 3
    assert line_of(text, ("y", "c")) == 4
    assert line_of(text, ("z",)) == 1


@pytest.mark.parametrize(("name", "least"), [("mnist", 0.7), ("mnist_90", 0.9), ("clothes", 0.7)])
def test_the_bundled_recipes_are_recipes(name, least):
    recipe = read_recipe(ROOT / "examples" / f"{name}.toml")
    assert Path(recipe.model).is_file()
    assert recipe.budget.of == "macs"
    assert recipe.budget.target >= least
    assert recipe.compare.one_shot


def test_a_drafted_recipe_is_one_and_explains_every_key(tmp_path):
    path = write_recipe(tmp_path)
    channels = find_channels(load(tmp_path / "net.onnx"))
    wish = RecipeRequest(str(tmp_path / "train.npz"), None)
    text, facts = draft(channels, tmp_path / "net.onnx", path, wish, {"image": (1, 1, 8, 8)})
    path.write_text(text)
    recipe = read_recipe(path)
    assert recipe.model == str(tmp_path / "net.onnx")
    assert recipe.shapes == {"image": (1, 1, 8, 8)}
    assert (recipe.metric, recipe.finetune.loss) == ("top1", "0.5*cross-entropy + 0.5*distill")
    assert facts["groups"] == len(channels.groups)
    keys = [
        key
        for name, section in Recipe.model_fields.items()
        for key in (name, *getattr(section.annotation, "model_fields", ()))
    ]
    assert [
        key for key in keys if f"{key} = " not in text and f"[{key}]" not in text and key not in text
    ] == []
