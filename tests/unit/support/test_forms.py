"""JSON files of the program, damaged: refused by the place that is wrong, never a traceback."""

from __future__ import annotations

import json

import networks_on_disk as disk
import numpy as np
import pytest
import recipes

from onnxprune.decisions.plan import PLAN_KEY
from onnxprune.support.json_forms import (
    ANYTHING,
    COUNT,
    FLAG,
    NUMBER,
    REAL,
    TEXT,
    MappingOf,
    Nullable,
    OneOf,
    read_form,
)

pytestmark = pytest.mark.slow


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (COUNT, "[0, 7]", "[-1, true, 1.5, 9007199254740993, null]"),
        (NUMBER, "[0, -1.5, 1e308]", '[NaN, Infinity, true, "1", null, 1e999]'),
        (REAL, "[NaN, -Infinity, 2]", f"[1{'0' * 400}, false]"),
        (TEXT, '["", "é"]', '[1, "\\ud800"]'),
        (FLAG, "[true]", "[1]"),
        (ANYTHING, "[null, {}]", "[]"),
        (Nullable(COUNT), "[null, 1]", "[-1]"),
        (OneOf(COUNT, TEXT), '[1, "a"]', "[null, -1]"),
        (MappingOf(COUNT), '[{}, {"a": 1}]', '[{"a": -1}, {"\\ud800": 1}, [], 1]'),
        ({"a": COUNT, "b?": TEXT}, '[{"a": 1}, {"a": 1, "b": "x", "c": 9}]', '[{}, {"a": 1, "b": 2}, []]'),
        ([COUNT], "[[], [1]]", "[[null], {}, 1]"),
    ],
)
def test_forms(form, good, bad):
    for value in json.loads(good):
        assert read_form(json.dumps(value), form) is not None or value is None
    for value in json.loads(bad):
        with pytest.raises(ValueError, match=r"should be|is missing|has a key"):
            read_form(json.dumps(value), form)


def test_the_place_is_named():
    with pytest.raises(ValueError, match=r"a\.b\[1\] should be a count, not -3"):
        read_form('{"a": {"b": [1, -3]}}', {"a": MappingOf([COUNT])})
    with pytest.raises(ValueError, match="nested too deeply"):
        read_form(DEEP, ANYTHING)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, the files that commands write beside it, and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    model = disk.save(disk.network(), folder / "model.onnx")
    disk.save_data(folder / "data.npz", **disk.samples(8))
    prune = ("prune", model, "--reduce-channels", 0.5, "--round-to", 1)
    made = [
        (*prune, "--plan-out", folder / "plan.json", "-o", folder / "sparse.onnx"),
        ("ana", model, "--data", folder / "data.npz", "--ratios", "0.3,0.6", "-o", folder / "analysis.json"),
    ]
    (folder / "run").mkdir()
    made.append(("run", recipes.write_recipe(folder / "run")))
    for words in made:
        done = disk.run(*words)
        assert done.code == 0, done.err
    return folder


def changed(path, keys, value, folder):
    """Write a copy of a JSON file with another value at one place."""
    content = json.loads(path.read_text())
    holder = content
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    copy = folder / path.name
    copy.write_text(json.dumps(content))
    return copy


ANALYSES = [
    (("baseline",), "x"),
    (("curves",), []),
    (("curves", "conv1", "values"), [0.1]),
    (("curves", "conv1", "values"), [None, 1]),
    (("curves", "conv1", "ratios"), [0.6, 0.3]),
    (("curves", "conv1", "ratios"), [0.3, 1.6]),
    (("curves", "conv1", "size"), 10**400),
    (("curves", "conv1", "uncertainties"), [1]),
    (("higher_is_better",), None),
    (("settings",), [1]),
]


@pytest.mark.parametrize(("keys", "value"), ANALYSES)
def test_damaged_analyses(place, tmp_path, keys, value):
    path = changed(place / "analysis.json", keys, value, tmp_path)
    words = ("--analysis", path, "--reduce-channels", 0.5, "-o", tmp_path / "out.onnx")
    assert keys[-1] in disk.run("prune", place / "model.onnx", *words).refused(1)
    data = ("--data", place / "data.npz", "--ratios", "0.3,0.6", "--resume")
    disk.run("ana", place / "model.onnx", *data, "-o", path).refused(1)


PLANS = [
    (("groups",), 3),
    (("groups", "conv1", "keep"), "8"),
    (("groups", "conv1", "size"), 2**70),
    (("groups", "conv1", "removed"), [[1], 2]),
    (("groups", "conv1", "removed"), [-1]),
    (("settings",), None),
]


@pytest.mark.parametrize(("keys", "value"), PLANS)
def test_damaged_plan_files(place, tmp_path, keys, value):
    path = changed(place / "plan.json", keys, value, tmp_path)
    said = disk.run("prune", place / "model.onnx", "--plan", path, "-o", tmp_path / "out.onnx").refused(1)
    assert keys[-1] in said


LIMITS = [
    '{"keep_at_least": {"conv1": null}}',
    '{"keep_at_least": {"conv1": -1}}',
    '{"exclude": [null]}',
    '{"only": "conv1"}',
    '{"nothing": 1}',
    DEEP,
    "[]",
]


@pytest.mark.parametrize("text", LIMITS)
def test_damaged_limits(place, tmp_path, text):
    (tmp_path / "limits.json").write_text(text)
    words = ("--limits", tmp_path / "limits.json", "--reduce-channels", 0.5, "-o", tmp_path / "out.onnx")
    assert "limits.json" in disk.run("prune", place / "model.onnx", *words).refused(1)


EMBEDDED = [
    (("removed", "conv1"), [10**20]),
    (("removed",), {"conv1": None}),
    (("sizes", "conv1"), True),
    (("baseline", "macs"), float("nan")),
    (("baseline", "macs"), -1),
    (("input_shapes",), {"image": [0, 3, 8, 8]}),
    (("input_shapes",), {"image": ["N"]}),
    (("within",), {"conv1": 3}),
    (("allow_inexact",), "no"),
]


@pytest.mark.parametrize(("keys", "value"), EMBEDDED)
def test_damaged_plans_inside_models(place, tmp_path, keys, value):
    import onnx

    proto = onnx.load(place / "sparse.onnx")
    note = next(p for p in proto.metadata_props if p.key == PLAN_KEY)
    (tmp_path / "note.json").write_text(note.value)
    note.value = changed(tmp_path / "note.json", keys, value, tmp_path).read_text()
    path = disk.save(proto, tmp_path / "sparse.onnx")
    assert "the plan" in disk.run("transform", path, "-o", tmp_path / "dense.onnx").refused(1)


STATES = [
    (("steps",), []),
    (("steps", "baseline"), None),
    (("steps", "baseline", "facts"), {}),
    (("steps", "baseline", "facts", "blocked"), [{"node": "x"}]),
    (("steps", "baseline", "facts", "score"), "half"),
    (("steps", "baseline", "extra"), 1),
    (("steps", "1-prune", "facts", "groups"), {"c1": {"before": 0, "after": 0}}),
    (("steps", "1-score", "facts", "score"), None),
    (("steps", "1-prune", "facts", "score"), "half"),
    (("steps", "1-score", "duration_s"), None),
    (("result",), 7),
    (("result", "iterations"), [{}]),
    (("recipe", "budget"), {"reduce_macs": None}),
    (("recipe", "model"), 3),
    (("made_with",), {"onnx": 1}),
]


@pytest.mark.parametrize(("keys", "value"), STATES)
@pytest.mark.parametrize("form", ["html", "md"])
def test_damaged_states(place, tmp_path, keys, value, form):
    (tmp_path / "work").mkdir()
    changed(place / "run" / "work" / "state.json", keys, value, tmp_path / "work")
    said = disk.run("report", tmp_path / "work", "-o", tmp_path / f"page.{form}").refused(2)
    assert (keys[1] if keys[-1] == "extra" else keys[-1]) in said
    disk.run("run", place / "run" / "recipe.toml", "--folder", tmp_path / "work").refused(2)


def test_recipes_nested_too_deeply_or_with_too_many_digits(tmp_path):
    for text in (f"x = {'[' * 5000}", f"threads = {'9' * 5000}"):
        (tmp_path / "recipe.toml").write_text(text)
        disk.run("run", tmp_path / "recipe.toml").refused(2)
    path = recipes.write_recipe(tmp_path)
    disk.run("run", path, "--set", f"threads={'9' * 5000}").refused(2)
    disk.run("run", path, "--set", f"prune.round_to={10**30}").refused(2)


def test_a_huge_step_of_rounding_is_no_traceback(place, tmp_path):
    words = ("--reduce-channels", 0.5, "--round-to", 10**30, "-o", tmp_path / "out.onnx")
    assert disk.run("prune", place / "model.onnx", *words).code in (0, 1, 2)


def test_an_infinite_drop_is_drawn(place, tmp_path):
    """A group that makes the metric infinite, as `ana` shows it."""
    values = [float("inf"), float("inf")]
    path = changed(place / "analysis.json", ("curves", "conv1", "values"), values, tmp_path)
    data = ("--data", place / "data.npz", "--ratios", "0.3,0.6", "--resume")
    assert disk.run("ana", place / "model.onnx", *data, "-o", path).code == 0
    assert np.isinf(json.loads(path.read_text())["curves"]["conv1"]["values"][0])


@pytest.mark.parametrize("form", ["html", "md"])
def test_a_report_of_a_model_whose_work_is_not_known(place, tmp_path, form):
    (tmp_path / "work").mkdir()
    changed(
        place / "run" / "work" / "state.json", ("steps", "baseline", "facts", "macs"), 0, tmp_path / "work"
    )
    assert disk.run("report", tmp_path / "work", "-o", tmp_path / f"page.{form}").code == 0
