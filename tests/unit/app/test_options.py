"""Options are written once: fields of a pass make its command line and the keys of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from onnxprune import passes
from onnxprune.app.cli import program
from onnxprune.app.cli.pass_options import PassCommand
from onnxprune.app.recipe.schema import Recipe
from onnxprune.app.recipe.sections import PassSection, keys_of
from onnxprune.app.runner.recipe_template import _key_line
from onnxprune.errors import UsageError
from onnxprune.ir import load
from onnxprune.passes import Ana, Finetune, Pass, PassResult, Prune, Recover, Rotate, Transform
from onnxprune.repair import METHODS
from onnxprune.repair.methods import RepairMethod
from onnxprune.scoring.criteria import CRITERIA, CriterionName
from onnxprune.support.common_options import Seeded
from onnxprune.support.option_fields import Key, option, options_of

PASSES = {"ana": Ana, "finetune": Finetune, "prune": Prune, "recover": Recover, "rotate": Rotate}
PASSES["transform"] = Transform
MODEL = Path(__file__).parents[3] / "models" / "mnist_cnn.onnx"


@dataclass(frozen=True)
class Blur(Seeded, Pass):
    """Blur the weights.

    Attributes:
        width: How wide; less than ``limit``.
        limit: The ``largest`` width.
        kinds: Kinds of layers.
        shares: Fractions.
        widths: The width of a layer.
        kernel: The kernel.
        place: Where it is noted.
        inner: For Python alone.
        keep: Keep the sign.
    """

    name: ClassVar[str] = "blur"

    width: int = field(metadata=option(least=1, metavar="N", key=Key(default=3, note="wide")))
    limit: float | None = field(default=None, metadata=option(above=0, below=1, key=Key(example="0.5")))
    kinds: Sequence[Literal["conv", "gemm"]] = field(
        default=("conv",), metadata=option(flag="--kind", metavar="KIND", key=Key(note="{choices}"))
    )
    shares: Sequence[float] = field(default=(0.1, 0.5), metadata=option(above=0, key=Key()))
    widths: Mapping[str, int] = field(default_factory=dict, metadata=option(example="LAYER=N", least=1))
    kernel: Literal["box", "gauss"] = field(default="box", metadata=option(key=Key()))
    place: Path | None = field(default=None, metadata=option(place="writes"))
    inner: object = field(default=None, metadata=option(flag=""))
    keep: bool = True

    def run(self, given: PassResult) -> PassResult:
        """Leave the model as it is."""
        return given


def called(*words: str) -> Any:
    """Return the options that a command line gives to the pass, or the complaint."""
    made: dict[str, Any] = {}
    command = PassCommand("blur", fields_of=Blur, params=[], callback=lambda **options: made.update(options))
    outcome = CliRunner().invoke(command, list(words))
    return made if outcome.exit_code == 0 else outcome.output


def test_fields_are_options_of_the_command_line() -> None:
    found = called("--width", "2", "--kind", "gemm", "--kind", "conv", "--widths", "a=3", "--no-keep")
    assert found["kinds"] == ("gemm", "conv")
    assert (found["widths"], found["keep"], found["seed"]) == ({"a": 3}, False, 0)
    assert found["shares"] == (0.1, 0.5)
    assert "inner" not in found
    assert Blur(**found).width == 2
    assert called("--width", "1", "--shares", "0.2,0.3")["shares"] == (0.2, 0.3)
    assert called("--width", "1")["kinds"] == ("conv",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing option '--width'"),
        (("--width", "0"), "0 is not in the range"),
        (("--width", "1", "--limit", "1"), "not in the range 0<x<1"),
        (("--width", "1", "--kernel", "cone"), "'cone' is not one of"),
        (("--width", "1", "--widths", "a=0"), "'a=0' is not of the form LAYER=N"),
    ],
)
def test_values_are_checked_on_the_command_line(words: Sequence[str], said: str) -> None:
    assert said in called(*words)


def test_the_docstring_explains_options_in_the_words_of_the_command_line() -> None:
    command = PassCommand("blur", fields_of=Blur, params=[])
    helps = {p.name: p.help for p in command.params if isinstance(p, click.Option)}
    assert helps["width"] == "How wide; less than --limit."
    assert helps["limit"] == "The largest width."
    assert helps["kinds"] == "Kinds of layers (repeatable)."
    assert helps["seed"] == "Seed of everything that is drawn."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "blur: `width` is 0"),
        ({"limit": 1.5}, "between 0 and 1"),
        ({"shares": [0.0]}, "more than 0"),
        ({"kernel": "cone"}, "choose from: box, gauss"),
        ({"kinds": ["lstm"]}, "choose from: conv, gemm"),
        ({"widths": {"a": 0}}, "1 or more"),
    ],
)
def test_values_are_checked_in_python(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Blur(**({"width": 1} | options))(load(MODEL))
    assert said in str(caught.value)


def test_options_are_keys_of_a_recipe() -> None:
    @dataclass(frozen=True)
    class More:
        """Keys beside.

        Attributes:
            first: Before all.
            then: Behind ``limit``.
        """

        first: bool = True
        then: int | None = field(default=None, metadata=option(least=0, key=Key(after="limit")))

    @keys_of(Blur, More)
    class BlurSection(PassSection):
        """Blurring."""

    assert list(BlurSection.model_fields) == ["first", "width", "limit", "then", "kinds", "shares", "kernel"]
    assert (BlurSection().width, BlurSection().kinds) == (3, ("conv",))
    for wrong in (
        {"width": 0},
        {"limit": 1},
        {"then": -1},
        {"kinds": ["lstm"]},
        {"kernel": "cone"},
        {"x": 1},
    ):
        with pytest.raises(ValidationError):
            BlurSection(**wrong)
    lines = [_key_line(name, key, None) for name, key in BlurSection.model_fields.items()]
    assert lines[1:5] == ["width = 3 # wide", "# limit = 0.5", "then = null", 'kinds = ["conv"] # conv gemm']


@pytest.mark.parametrize("name", passes.__all__)
def test_every_option_is_explained(name: str) -> None:
    owner = getattr(passes, name)
    if owner is not PassResult and owner is not Pass:
        assert [of.name for of in options_of(owner) if not of.text] == []


@pytest.mark.parametrize("name", PASSES)
def test_every_option_of_a_pass_is_one_of_its_command(name: str) -> None:
    offered = {p.name for p in program.commands[name].params}
    assert {of.name for of in options_of(PASSES[name]) if of.flag} <= offered


@pytest.mark.parametrize("name", ["ana", "prune", "recover", "finetune"])
def test_keys_of_a_section_take_the_values_of_the_pass(name: str) -> None:
    section = getattr(Recipe.model_fields[name], "annotation", None)
    options = {of.name: of for of in options_of(PASSES[name])}
    shared = set(section.model_fields) & set(options)  # type: ignore[union-attr]
    assert {of for of in options if options[of].option.key} - shared <= {
        *(f"reduce_{cost}" for cost in ("macs", "params", "size", "latency", "channels")),
        *(("exclude", "only", "allow_inexact") if name == "ana" else ()),
    }


def test_an_error_names_parameters_in_python_and_flags_on_the_command_line() -> None:
    with pytest.raises(UsageError, match="`reduce_macs`"):
        Prune()(load(MODEL))
    with pytest.raises(UsageError) as caught:
        program.main(["prune", str(MODEL), "-o", "s.onnx"], standalone_mode=False)
    assert "--reduce-macs" in caught.value.hint
    assert "`" not in caught.value.hint


def test_names_are_those_of_the_tables() -> None:
    assert set(get_args(CriterionName)) == set(CRITERIA)
    assert set(get_args(RepairMethod)) == set(METHODS)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("30%", "'30%' is no number: write 0.3"),
        ("x%", "'x%' is not a valid float"),
        ("x", "not a valid float"),
    ],
)
@pytest.mark.parametrize("command", ["prune", "shrink"])
def test_a_percentage_is_refused_with_the_fraction_that_it_is(command: str, given: str, answer: str) -> None:
    words = [command, str(MODEL), "--reduce-macs", given, "-o", "never.onnx"]
    found = CliRunner().invoke(program, words)
    assert found.exit_code == 2
    assert answer in found.output
