"""Sizes that the user gives: --dim for the name of an axis, --shape for a whole input."""

from __future__ import annotations

from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from exported_networks import EXPORTS
from helpers import Net
from places import CASES

from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.analysis.shapes import infer, reference
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import UsageError
from onnxprune.ir import Model, check, load, merged, sized
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session

TWO = str(CASES / "two_inputs.onnx")


@pytest.fixture
def gpt2(tmp_path: Path) -> str:
    path = tmp_path / "gpt2.onnx"
    onnx.save(EXPORTS["gpt2_with_past"](), path)
    return str(path)


def shapes_of(outcome: disk.Outcome) -> dict[str, list[int]]:
    assert outcome.code == 0, outcome.err
    return dict(outcome.facts["input_shapes"])


def test_a_shape_binds_the_axes_of_the_other_inputs() -> None:
    assert shapes_of(disk.run("inspect", TWO, "--shape", "ids=2x8", "--json")) == {
        "ids": [2, 8],
        "mask": [2, 8],
    }


def test_a_name_binds_its_axes_and_leaves_the_others_open() -> None:
    found = shapes_of(disk.run("inspect", TWO, "--dim", "seq=8", "--json"))
    assert found["ids"][1] == found["mask"][1] == 8
    assert found["ids"][0] == found["mask"][0]


def test_names_that_are_sums_follow(gpt2: str) -> None:
    dims = ("--dim", "past_sequence_length=6", "--dim", "sequence_length=2")
    found = shapes_of(disk.run("inspect", gpt2, *dims, "--json"))
    assert found["attention_mask"][1] == 8
    assert found["past_key_values.0.key"][2] == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dim", "width=8"), "'width'"),
        (("--dim", "seq=8", "--shape", "ids=2x9"), "both 8 and 9"),
        (("--shape", "ids=2x8", "--shape", "mask=2x9"), "both 8 and 9"),
        (("--shape", "ids=2x8x3"), "does not fit"),
        (("--shape", "no=2x8"), "'no'"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(words: tuple[str, ...], said: str) -> None:
    assert said in disk.run("inspect", TWO, *words).refused(code=2)


@pytest.mark.parametrize("text", ["seq", "seq=", "seq=0", "=4", "seq=-1", "seq=x"])
def test_a_size_has_a_name_and_a_number(text: str) -> None:
    assert "sequence_length=128" in disk.run("inspect", TWO, "--dim", text).refused(code=2)


def test_every_command_that_reads_a_model_takes_them(tmp_path: Path) -> None:
    sparse, dense, tuned = (tmp_path / f"{n}.onnx" for n in ("sparse", "dense", "tuned"))
    random = np.random.default_rng(0)
    data = disk.save_data(
        tmp_path / "data.npz",
        ids=random.integers(0, 50, (16, 8)),
        mask=np.ones((16, 8), np.float32),
        y=random.normal(size=(16, 8, 4)).astype(np.float32),
    )
    sizes = ("--dim", "seq=8", "--shape", "ids=2x8")
    for words in (
        ("ana", TWO, "--data", data, "--metric", "mse", "--ratios", "0.5", "-o", tmp_path / "a.json"),
        ("prune", TWO, "--reduce-channels", 0.5, "--round-to", 1, "-o", sparse),
        ("recover", sparse, "--original", TWO, "-o", tuned, "--samples", 8),
        ("transform", sparse, "-o", dense),
        ("verify", sparse, dense),
        ("bench", TWO, dense, "--runs", 1),
        ("init", TWO, "-o", tmp_path / "recipe.toml"),
    ):
        outcome = disk.run(*words, *sizes)
        assert outcome.code == 0, f"{words[0]}: {outcome.err}"
    bench = disk.run("bench", TWO, "--runs", 1, *sizes, "--json").facts
    assert bench["models"][0]["input_shapes"] == {"ids": [2, 8], "mask": [2, 8]}


def test_a_plan_keeps_the_sizes_and_later_commands_run_at_them(gpt2: str) -> None:
    dims = {"past_sequence_length": 6, "batch_size": 2}
    result = Prune(reduce_channels=0.5, round_to=1, dims=dims)(load(gpt2))
    plan = stored_plan(result.model)
    assert plan is not None
    assert plan.input_shapes["input_ids"] == (2, -1)
    assert plan.input_shapes["past_key_values.0.key"] == (2, 4, 6, 8)
    dense = Transform(dims={"past_sequence_length": 3})(result).model
    (feed,) = feeds_that_run(dense, Session(dense.proto))
    assert feed["past_key_values.0.key"].shape[2] == 3


def test_given_sizes_stay_when_other_sizes_are_tried() -> None:
    model = sized(check(Model(onnx.load(CASES / "wave_conv.onnx"))), dims={"N": 2})
    (feed,) = feeds_that_run(model, Session(model.proto), {"x": (3, 1, 5)})
    assert feed["x"].shape[0] == 2
    assert feed["x"].shape[2] >= 16


def test_the_size_of_no_axis_is_refused() -> None:
    with pytest.raises(UsageError, match="'x'") as caught:
        sized(load(TWO), dims={"x": 3})
    assert "batch, seq" in caught.value.hint


def test_merged_sizes_take_the_second_where_it_has_any() -> None:
    assert merged({"a": (1, 2), "b": (3,)}, {"a": (-1, 5), "c": (-1, 7)}) == {
        "a": (1, 5),
        "b": (3,),
        "c": (-1, 7),
    }
    assert merged(None, {"a": (4,)}) == {"a": (4,)}


def unnamed(*texts: str | None) -> Model:
    """A network over two inputs, the axes of the second declared as given."""
    net = Net()
    x = net.input("x", ["N", 3, None, "?"])
    y = net.relu(net.conv(x, 8))
    return net.model(y, net.op("Neg", net.input("other", list(texts))))


def test_an_axis_without_a_name_is_bound_by_the_name_that_inspect_prints(tmp_path: Path) -> None:
    place = tmp_path / "unnamed.onnx"
    onnx.save(unnamed("a", None).proto, place)
    names = disk.run("inspect", place, "--json").facts["sizes"]["open"]
    assert names == sorted(["N", "x.2", "x.3", "a", "other.1"])
    dims = [word for k, name in enumerate(names) for word in ("--dim", f"{name}={5 + k}")]
    found = shapes_of(disk.run("inspect", place, *dims, "--json"))
    assert found == {"x": [5, 3, 8, 9], "other": [6, 7]}


def test_a_symbol_that_occurs_in_a_sum_alone_is_bound() -> None:
    model = unnamed("past + seq", "seq")
    assert sized(model, dims={"past": 3, "seq": 4}).sizes["other"] == (7, 4)
    with pytest.raises(UsageError, match="'past' alone decides no size") as caught:
        sized(model, dims={"past": 3})
    assert "seq" in str(caught.value.hint)


def test_a_name_with_a_dash_is_one_name() -> None:
    model = unnamed("num-channels", "max(a, 4)")
    assert sized(model, dims={"num-channels": 3, "a": 2}).sizes["other"] == (3, 4)
    with pytest.raises(UsageError, match="'num'"):
        sized(model, dims={"num": 3})


def test_sizes_that_are_all_given_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No likely numbers are tried for axes that have none open, and none are solved for."""
    seen = []
    monkeypatch.setattr(reference, "fits", lambda analysis, numbers: seen.append(dict(numbers)))
    monkeypatch.setattr(reference, "default_sizes", lambda analysis: seen.append("solved"))
    net = Net()
    model = net.model(net.conv(net.input("x", ["n", 3, "h", "w"]), 4))
    infer(model, {"x": (2, 3, 5, 7)})
    assert seen == [{"n": 2, "h": 5, "w": 7}]
