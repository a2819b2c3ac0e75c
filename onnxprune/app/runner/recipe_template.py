"""A recipe fitted to a model, with every key explained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.cost import Cost, cost_of
from onnxprune.app.recipe.schema import Recipe
from onnxprune.app.recipe.sections import Section
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.suggestion import suggest
from onnxprune.runtime import Session, TensorSpec
from onnxprune.support.callables import is_reference
from onnxprune.support.option_fields import Key
from onnxprune.support.wording import in_toml, shown

_TINY = 16
"""Largest number of channels of a group that a recipe excludes: the gain is small, and all later layers
depend on it."""
_COLUMN = 32
"""Column at which the explanations begin."""
_TEMPLATE = Template("""\
# Recipe of `onnxprune run` for $model. Every key can be overridden there
# with --set section.key=value. Paths count from the folder of this file.
#
# inputs:  $inputs
# outputs: $outputs

$keys
[shapes]                        # full input shapes to analyse with, where the file leaves axes open
$shapes

[dims]                          # sizes to analyse with, by the name of an open axis
# sequence_length = 128

# Groups of channels that can be removed:
#
$groups
""")
_OWN_PARTS = ("shapes", "dims")
"""Tables of a recipe that the template writes itself."""


@dataclass(frozen=True)
class RecipeRequest:
    """Options the user has given.

    Attributes:
        train: Training data, if known.
        val: Held-back data, if known.
        open_io: Globs of inputs and outputs whose fixed axes may shrink.
        allow_inexact: True if axes that the network normalises over are opened.
    """

    train: str | None = None
    val: str | None = None
    open_io: Sequence[str] = ()
    allow_inexact: bool = False


def draft(
    channels: Channels, model: Path, place: Path, wish: RecipeRequest, shapes: Mapping[str, Sequence[int]]
) -> tuple[str, dict[str, Any]]:
    """Write a recipe.

    Args:
        channels: The model's groups.
        model: Its file.
        place: Path the recipe is written to; paths in it count from its folder.
        wish: Options that are known already.
        shapes: Input shapes the user has given.

    Returns:
        The text, and the findings about the model, ready for JSON.
    """
    session = Session(channels.model.proto)
    data = None if wish.train is None else open_data(wish.train, session.inputs, session.outputs)
    suited = suggest(channels.model, session, data)
    exclude = [g.name for g in channels.groups if g.size <= _TINY and not g.optional]
    exclude = exclude if len(exclude) < sum(not g.optional for g in channels.groups) else []
    chosen = {
        "metric": suited.metric,
        "loss": suited.loss,
        "exclude": exclude,
        "finding": suited.reason,
    }
    values = {
        "model": _from(place, str(model)),
        "folder": f"{place.stem}-run",
        "metric": chosen["metric"],
        "open_io": list(wish.open_io) or None,
        "data.train": _from(place, wish.train) or "train.npz",
        "data.val": _from(place, wish.val) or "val.npz",
        "budget.reduce_macs": 0.5,
        "ana.metric": suited.curves,
        "prune.exclude": exclude,
        "prune.allow_inexact": wish.allow_inexact,
        "finetune.loss": chosen["loss"],
        "finetune.batch_size": session.fixed_batch or 32,
        "stop.max_drop": suited.drop,
        "stop.retries": 1,
    }
    words = {"model": shown(model.name), "groups": _listed(channels), "keys": "\n".join(_keys(values))}
    words |= {"shapes": _shapes(channels, shapes)}
    words |= {"inputs": _specs(session.inputs), "outputs": _specs(session.outputs)}
    return _aligned(_TEMPLATE.substitute(words)), chosen | {"groups": len(channels.groups)}


def _keys(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of all keys and sections, with the values chosen and else the defaults."""
    sections = {}
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            sections[name] = kind
        elif name not in _OWN_PARTS:
            yield _key_line(name, field, values.get(name))
    for name, section in sections.items():
        yield ""
        yield f"[{name}]{f' # {section.note}' if section.note else ''}"
        for key, field in section.model_fields.items():
            yield _key_line(key, field, values.get(f"{name}.{key}"))
    yield ""


def _key_line(name: str, field: FieldInfo, value: Any) -> str:
    """Return the line of a key: with a value, or as a comment with an example."""
    key = next((entry for entry in field.metadata if isinstance(entry, Key)), Key())
    note = f" # {key.note.format(choices=' '.join(_choices(field.annotation)))}" if key.note else ""
    if value is None and key.example:
        return f"# {name} = {key.example}{note}"
    return f"{name} = {_toml(field.default if value is None else value)}{note}"


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the words that a key takes."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((found for inner in get_args(kind) if (found := _choices(inner))), ())


def _from(place: Path, spec: str | None) -> str | None:
    """Write a path as seen from the recipe's folder."""
    if spec is None or (is_reference(spec) and not Path(spec).exists()):
        return spec
    return Path(os.path.relpath(Path(spec).resolve(), place.resolve().parent)).as_posix()


def _aligned(text: str) -> str:
    """Put the explanations below each other."""
    found = (re.fullmatch(r"((?:# )?[\w\[][^#]*?) +(# .*)", line) for line in text.splitlines())
    lines = zip(found, text.splitlines(), strict=True)
    return "\n".join(f"{m[1]:{_COLUMN - 1}} {m[2]}" if m else line for m, line in lines) + "\n"


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(shown(s) for s in specs)


def _toml(value: Any) -> str:
    """Write text, a list of texts, or a number as TOML does."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return f"[{', '.join(map(in_toml, value))}]"
    return in_toml(value) if isinstance(value, str) else json.dumps(value)


def _shapes(channels: Channels, given: Mapping[str, Sequence[int]]) -> str:
    """List the input shapes given, or as comments those the analysis has tried."""
    shapes, mark = (given, "") if given else (channels.typing.shapes.inputs, "# ")
    return "\n".join(f"{mark}{in_toml(n)} = {json.dumps(list(s))}" for n, s in shapes.items())


def _listed(channels: Channels) -> str:
    """List the groups as comments: size, share of the multiply-accumulates."""
    cost = cost_of(channels)
    width = max((len(shown(g.name)) for g in channels.groups), default=0)
    return "\n".join(_line(g, cost, width) for g in channels.groups) or "# none"


def _line(group: Group, cost: Cost, width: int) -> str:
    share = sum(t.value({}) for t in cost.macs.of(group.factor)) / max(cost.macs.value(), 1)
    note = "  optional: name it in prune.only" if group.optional else ""
    return (
        f"#   {shown(group.name):{width}}  {group.size:5} channels  {share:4.0%} of the MACs touch it{note}"
    )


def explained(facts: Mapping[str, Any]) -> list[str]:
    """Return sentences on the choices in a recipe and their reasons."""
    judged = f"judged by {facts['metric']}, trained with the loss {facts['loss']}"
    left = ", ".join(facts["exclude"])
    return [
        f"{facts['groups']} groups of channels can be removed",
        f"{judged}: {facts['finding']}",
        f"excluded because they are small: {left}" if left else "no group is excluded",
    ]
