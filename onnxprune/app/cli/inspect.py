"""``inspect``: the groups of channels, blocked axes and their reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from onnxprune.app.cli.command_options import model_argument
from onnxprune.app.cli.conventions import Facts, command, is_verbose
from onnxprune.support.common_options import GroupSelection, InexactAxes, InputSizes, OpenInterface
from onnxprune.support.wording import folded, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.analysis.groups.channels import BlockedAxis, Channels
    from onnxprune.analysis.groups.cost import Cost
    from onnxprune.analysis.groups.group_symmetry import GroupSymmetry
    from onnxprune.analysis.sizes import SizeAnalysis

_SHAPES_SHOWN = 3
_LONGEST_EQUATION = 100
"""Characters of an equation that are shown without ``--all``."""


def render(facts: Facts) -> RenderableType:
    """Show the totals and the groups; verbosely also nodes, blocked axes and sizes."""
    from rich.console import Group as Lines

    from onnxprune.app.cli.listing import BLOCKED_COLUMNS, blocked_rows, group_columns, group_rows
    from onnxprune.app.figures import count, file_size, table

    every, groups = facts["all"], facts["groups"]
    verbose = facts["verbose"] or every
    total = f"{count(facts['macs'])} MACs, {count(facts['params'])} parameters"
    lines: list[RenderableType] = [
        f"{facts['model']}: {total}, {file_size(facts['size_bytes'])}",
        *_assumed(facts),
        *_sparsity(facts),
        "",
        table(group_columns(groups, verbose, every), group_rows(groups, verbose, every)),
        *_blocks(facts),
    ]
    if verbose or not groups:
        lines += ["", table(BLOCKED_COLUMNS, blocked_rows(facts["blocked"], every))]
        lines += [*_uncounted(facts), *_sizes(facts, every)]
    return Lines(*lines, "", _reach(facts, verbose), *_openings(facts))


def _blocks(facts: Facts) -> list[RenderableType]:
    """List the residual blocks that can be removed; verbosely also those that cannot, and why."""
    from onnxprune.app.cli.listing import block_columns, block_rows
    from onnxprune.app.figures import table

    every, blocks, refused = facts["all"], facts["blocks"], facts["blocks_refused"]
    lines: list[RenderableType] = []
    if blocks:
        nodes = facts["verbose"] or every
        lines += ["", table(block_columns(nodes), block_rows(blocks, nodes, every))]
    if refused and (facts["verbose"] or every):
        rows = [(f"{b['operator']} '{b['node']}'", b["reason"]) for b in refused]
        lines += ["", table(("residual branch that stays", "because"), rows)]
    return lines


def _assumed(facts: Facts) -> tuple[str, ...]:
    """Return a line with the shapes of the stated costs, where more than the batch is open."""
    from onnxprune.app.figures import shapes_text

    sizes, shapes = facts["sizes"]["inputs"], facts["input_shapes"]
    batch = next((sizes[n][0] for n in shapes if n in sizes and not sizes[n][0].isdecimal()), "")
    if set(facts["sizes"]["open"]) <= {batch}:
        return ()
    one = {
        n: [1 if s == batch else k for s, k in zip(sizes[n], shapes[n], strict=True)]
        for n in shapes
        if n in sizes
    }
    first = dict(list(one.items())[:_SHAPES_SHOWN])
    more = ", …" if len(one) > len(first) else ""
    return (f"MACs at {shapes_text(first)}{more}; --dim and --shape set others",)


def _reach(facts: Facts, verbose: bool) -> str:
    """Return the share of the network that lies on groups, and the option that lists the rest."""
    shares = (("params", "parameters"), ("macs", "MACs"))
    reach = " and ".join(f"{percent(facts[f'{kind}_reachable'])} of the {name}" for kind, name in shares)
    chosen = [g for g in facts["groups"] if g["selected"]]
    uncounted = len(facts["uncounted"])
    missing = (
        f"; the MACs of {uncounted} node{'s are' if uncounted > 1 else ' is'} not known" if uncounted else ""
    )
    more = "" if verbose or not facts["groups"] else "; -v lists nodes and blocked axes"
    return f"{len(chosen)} groups to prune, {facts['channels']} channels; {reach} in reach{missing}{more}"


def _openings(facts: Facts) -> list[str]:
    """Return a line for each set of options that brings more of the network into reach."""
    from onnxprune.analysis.groups.openings import statement

    return [
        statement(found["options"], found["params_reachable"], found["macs_reachable"])
        for found in facts["openings"]
    ]


def _sparsity(facts: Facts) -> tuple[str, ...]:
    """Return a sentence on the number of zeros in the weights; none where they were not counted."""
    from onnxprune.app.figures import count

    zeros = facts["zeros"]
    if zeros is None:
        return ()
    pattern = f", pattern {zeros['pattern']}" if zeros["pattern"] else ""
    return (f"{count(zeros['zeros'])} of {count(zeros['elements'])} weights are zero{pattern}",)


def _uncounted(facts: Facts) -> tuple[RenderableType, ...]:
    """List the nodes whose multiply-accumulates are not in the total, and the assumed sizes."""
    from onnxprune.app.figures import assumed_text, table

    rows = [(f"{n['operator']} '{n['node']}'", n["reason"]) for n in facts["uncounted"]]
    unknown = ("", table(("multiply-accumulates not known", "because"), rows)) if rows else ()
    assumption = assumed_text(facts)
    return (*unknown, *(("", assumption) if assumption else ()))


def _sizes(facts: Facts, every: bool) -> tuple[RenderableType, ...]:
    """List equations of the input's sizes in short, and, with ``--all``, as they are, with all else."""
    from onnxprune.app.figures import table

    sizes = facts["sizes"]
    rows = [("equation", text if every else _in_short(text)) for text in sizes["equations"]]
    if every:
        rows += [("condition", text) for text in sizes["conditions"]]
        rows += [("assumption", text) for text in sizes["assumptions"]]
    return ("", table(("sizes of the input", ""), rows)) if rows else ()


def _in_short(equation: str) -> str:
    """Return an equation without inner brackets where it is long; the node that demands it stays."""
    sizes, start, origin = equation.rpartition(" (node '")
    return f"{folded(sizes or origin, _LONGEST_EQUATION)}{start}{origin if start else ''}"


@command("inspect", render, fields_of=(GroupSelection, InexactAxes, InputSizes, OpenInterface))
@model_argument()
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="As --verbose, with a line for every group and every tensor, and all names.",
)
def inspect(
    model: str,
    exclude: Sequence[str],
    only: Sequence[str],
    allow_inexact: bool,
    input_shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    open_io: Sequence[str],
    every: bool,
) -> Facts:
    """List the groups of channels that can be removed, and the blocked axes with their reasons."""
    from onnxprune.analysis.groups.attention_heads import heads_of
    from onnxprune.analysis.groups.channels import find_channels
    from onnxprune.analysis.groups.cost import cost_of
    from onnxprune.analysis.groups.group_symmetry import symmetries
    from onnxprune.analysis.groups.openings import openings
    from onnxprune.analysis.groups.reach import reach_of, staying_axes
    from onnxprune.decisions.elements import pattern_note
    from onnxprune.ir import load, opened, sized
    from onnxprune.ir.output import stored_bytes
    from onnxprune.support.progress import task

    with task("analyse"):
        read = sized(opened(load(model, mapped=True), open_io), input_shapes, dims)
        channels = find_channels(read, allow_inexact=allow_inexact)
    chosen = _chosen(channels, exclude, only)
    reach = reach_of(channels)
    heads = heads_of(channels)
    cost = cost_of(channels, [g for g in channels.groups if g.name in chosen])
    return {
        "model": model,
        "size_bytes": stored_bytes(model),
        **cost.figures(),
        "params_reachable": reach.params,
        "macs_reachable": reach.macs,
        "input_shapes": {n: list(s) for n, s in channels.typing.shapes.inputs.items()},
        "groups": [
            _group(channels, found, cost, found.group.name in chosen)
            | {"unit": "heads" if found.group.name in heads else "channels"}
            for found in symmetries(channels)
        ],
        "blocks": _residual(channels, cost, exclude, only),
        "blocks_refused": [
            {"operator": b.operator, "node": b.node, "reason": b.reason} for b in channels.blocks.refused
        ],
        "openings": [
            {
                "options": found.options,
                "params_reachable": found.reach.params,
                "macs_reachable": found.reach.macs,
            }
            for found in openings(channels, reach)
        ],
        "blocked": [_blocked(channels, b) for b in staying_axes(channels)],
        **reach.counting.facts(),
        "sizes": _described(channels.typing.shapes.analysis),
        "zeros": _zeros(channels) if every or pattern_note(read) is not None else None,
        "verbose": is_verbose(),
        "all": every,
    }


def _zeros(channels: Channels) -> dict[str, Any]:
    """Count the zeros within the weights of linear operators, apart from costs: they save no MACs here."""
    import numpy as np

    from onnxprune.analysis.groups.weight_values import mask_values
    from onnxprune.decisions.elements import find_weights, pattern_note

    note = pattern_note(channels.model)
    weights = [mask_values(channels.typing, w.tensor) for w in find_weights(channels)[0]]
    return {
        "pattern": str(note.pattern) if note else None,
        "weights_of_pattern": list(note.weights) if note else [],
        "elements": sum(values.size for values in weights),
        "zeros": sum(int(values.size - np.count_nonzero(values)) for values in weights),
    }


def _described(analysis: SizeAnalysis) -> dict[str, Any]:
    """Describe the sizes of the input: its open axes, and the network's conditions on them."""
    inputs = {i for axis in analysis.symbols.values() for i, _ in axis.places}
    return {
        "open": sorted(analysis.symbols),
        "inputs": {name: [str(size) for size in analysis.shapes[name]] for name in sorted(inputs)},
        "equations": analysis.equations,
        "conditions": [str(condition) for condition in analysis.conditions],
        "assumptions": analysis.assumptions,
    }


def _chosen(channels: Channels, exclude: Sequence[str], only: Sequence[str]) -> set[str]:
    """Return the names of the groups that would be pruned; none of them is an answer too."""
    from onnxprune.analysis.groups.selection import chosen_groups

    return {g.name for g in chosen_groups(channels, exclude, only)}


def _symmetry(found: GroupSymmetry) -> dict[str, Any]:
    """Describe the linear maps along a group's channels that change no result."""
    return {
        "maps": found.symmetry.value,
        "maps_after_absorption": found.opened.value,
        "limited_by": asdict(found.limit) if found.limit else None,
    }


def _group(channels: Channels, found: GroupSymmetry, cost: Cost, selected: bool) -> dict[str, Any]:
    """Describe a group; ``parts`` is how many parts of the network may each lose other channels of it."""
    group = found.group
    return {
        "name": group.name,
        "size": group.size,
        "parts": channels.apart(group).size // group.size,
        "macs": round(sum(t.value({}) for t in cost.macs.of(group.factor))),
        "params": round(sum(t.value({}) for t in cost.params.of(group.factor))),
        "optional": group.optional,
        "selected": selected,
        "symmetry": _symmetry(found),
        "nodes": list(group.nodes),
        "tensors": [{"tensor": p.tensor, "axis": p.axis, "weight": p.weight} for p in group.places],
    }


def _residual(
    channels: Channels, cost: Cost, exclude: Sequence[str], only: Sequence[str]
) -> list[dict[str, Any]]:
    """Describe the residual blocks: the costs that each takes along by itself, and the nodes with weights."""
    from onnxprune.analysis.groups.selection import select_blocks

    chosen = set(select_blocks(channels, exclude, only))
    return [
        {
            "name": block.name,
            "stream": block.stream,
            "macs": round(sum(t.value({}) for t in cost.macs.of(block.factor))),
            "params": round(sum(t.value({}) for t in cost.params.of(block.factor))),
            "selected": block in chosen,
            "nodes": list(block.nodes),
            "tensors": list(block.weights),
        }
        for block in channels.blocks.removable
    ]


def _blocked(channels: Channels, axis: BlockedAxis) -> dict[str, Any]:
    """Describe an axis that stays; ``params`` is how many parameters its tensor has."""
    reasons = [{"operator": b.operator, "node": b.node, "reason": b.reason} for b in axis.reasons]
    params = math.prod(channels.model.constants[axis.tensor].dims)
    return {
        "tensor": axis.tensor,
        "axis": axis.axis,
        "size": axis.size,
        "params": params,
        "reasons": reasons,
    }
