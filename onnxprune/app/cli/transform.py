"""``transform``: from the sparse model to the dense one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import (
    Writes,
    model_argument,
    output_option,
)
from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.decisions.channels.hints import Hints
    from onnxprune.ir import Model


def render(facts: Facts) -> RenderableType:
    """Show the costs of the network now, and the agreement of the two models."""
    from rich.console import Group

    from onnxprune.app.figures import agreement, before_and_after, widths

    if facts["unchanged"]:
        return f"nothing to remove; the model was copied to {facts['output']}"
    costs = [
        (name, facts[f"{key}_before"], facts[key])
        for name, key in (("MACs", "macs"), ("parameters", "params"), ("file", "size_bytes"))
    ]
    return Group(
        widths(facts["groups"], facts.get("blocks", ())),
        "",
        before_and_after(costs),
        "",
        *_left(facts),
        *facts.get("corrected", ()),
        *facts.get("unfused", ()),
        agreement(facts, "sparse and dense model"),
        *_configured(facts),
        *([f"old number of each row: {facts['id_map']}"] if "id_map" in facts else []),
        *([f"certificate: {facts['certificate_file']}"] if "certificate_file" in facts else []),
        f"dense model: {facts['output']}",
    )


def _left(facts: Facts) -> list[RenderableType]:
    """Return a table of the constant channels that stay, by reason; ``--json`` has every place."""
    from onnxprune.app.figures import table

    reasons: dict[str, list[dict[str, Any]]] = {}
    for found in facts.get("left", ()):
        reasons.setdefault(found["reason"], []).append(found)
    rows = [
        (
            sum(f["channels"] for f in found),
            f"{found[0]['operator']} '{found[0]['node']}'",
            len(found),
            reason,
        )
        for reason, found in reasons.items()
    ]
    return (
        [table((">constant channels that stay", "first at", ">places", "because"), rows), ""] if rows else []
    )


@command("transform", render, executes=True, fields_of="onnxprune.passes.transform:Transform")
@model_argument("sparse")
@click.option(
    "--certificate",
    type=Writes(),
    metavar="FILE",
    help="File to write the kept elements to, for `python -m onnxprune.certify`.",
)
@output_option("the dense model")
def transform(sparse: str, output: str, certificate: str | None, **options: Any) -> Facts:
    """Remove the channels that are zero, and prove that the result computes the same."""
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.errors import NotShownError
    from onnxprune.ir import load
    from onnxprune.ir.output import kept_unverified, stored_bytes, write_model
    from onnxprune.passes.transform import Transform
    from onnxprune.support.progress import task

    step, data = Transform(**options), options["data"]
    inputs = [sparse, *([data] if data else [])]
    given = load(sparse, mapped=True)
    plan = stored_plan(given)
    with task("transform and compare"):
        try:
            result = step(given)
        except NotShownError as error:
            raise kept_unverified(error, output, sparse, inputs) from error
    with task("write and try"):
        planned = plan.input_shapes if plan else None
        fits = [i.type for i in given.inputs] == [i.type for i in result.model.inputs]
        fitting = data if fits and "rows" not in result.facts else None  # samples are of the whole model
        how: Facts = {"shapes": planned, "inputs": inputs, "data": fitting, "unverified": step.unverified}
        how |= {"reference": sparse}
        size = write_model(result.model, output, **how)
    facts = dict(result.facts)
    written: Facts = {"model": sparse, "output": output, "unchanged": not result.modified}
    found = facts.pop("configurations", {})
    if found:
        written |= {"configurations": [_write_configuration(n, c, output, inputs) for n, c in found.items()]}
    if certificate is not None and result.modified:
        written |= {"certificate_file": _write_certificate(result.kept, certificate, sparse, output, inputs)}
    rows = facts.pop("rows", None)
    if rows is not None:
        written |= {"id_map": _write_rows(given, output, rows, inputs)}
    return {**written, "size_bytes_before": stored_bytes(sparse), "size_bytes": size, **facts}


def _write_configuration(name: str, made: Facts, output: str, inputs: Sequence[str]) -> Facts:
    """Write a configuration beside the dense model, unless one lies there; return its changes."""
    from onnxprune.ir.output import write_text

    place = Path(output).parent / name
    free = not place.exists()
    if free:
        write_text(place, json.dumps(made["content"], indent=2) + "\n", inputs=inputs)
    changes = {entry: {"before": b, "after": a} for entry, (b, a) in made["changes"].items()}
    unclear = {entry: {"before": b, "after": a} for entry, (b, a) in made["unclear"].items()}
    return {"file": str(place), "written": free, "changes": changes, "unclear": unclear}


def _write_certificate(hints: Hints, place: str, sparse: str, dense: str, inputs: Sequence[str]) -> str:
    """Write down which elements of the sparse constants the dense ones hold; return where."""
    from onnxprune.certify import digest, to_json
    from onnxprune.ir.output import write_text

    write_text(Path(place), to_json(hints, digest(sparse), digest(dense)), inputs=inputs)
    return place


def _configured(facts: Facts) -> list[str]:
    """State the new numbers of the configurations, and those to be given by hand."""
    lines = []
    for entry in facts.get("configurations", ()):
        numbers = [
            f"{name} {c['after']} added"
            if c["before"] == c["after"]
            else f"{name} {c['before']} → {c['after']}"
            for name, c in entry["changes"].items()
        ]
        verb = "written" if entry["written"] else "is there already, and has to say"
        lines.append(f"{entry['file']} {verb}: {', '.join(numbers) or 'as before'}")
        lines += [
            f"  {name}: layers keep {', '.join(map(str, c['after']))}, which one number cannot say"
            for name, c in entry["unclear"].items()
        ]
    return lines


def _write_rows(sparse: Model, output: str, rows: Sequence[int], inputs: Sequence[str]) -> str:
    """Write down which row of the whole vocabulary each row of the dense model is; return where."""
    from onnxprune.decisions.channels.kept_rows import id_map
    from onnxprune.ir.output import write_text

    place = Path(output).with_suffix(".ids.json")
    write_text(place, json.dumps(id_map(sparse, rows)) + "\n", inputs=inputs)
    return str(place)
