"""``inspect``: what can be pruned, what cannot, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.cli.options import glob_options, inexact_option, model_argument, open_option, shape_option
from onnxprune.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.groups.channels import BlockedAxis, Channels, Group
    from onnxprune.groups.cost import Cost


def render(facts: Facts) -> RenderableType:
    """Show the groups, what is blocked, and the totals."""
    from rich.console import Group as Lines

    from onnxprune.figures import count, file_size, table

    groups = [
        (
            g["name"],
            f"{g['parts']} × {g['size']}" if g["parts"] > 1 else g["size"],
            count(g["macs"]),
            count(g["params"]),
            "" if g["selected"] else ("optional" if g["optional"] else "excluded"),
            ", ".join(g["nodes"]),
            ", ".join(f"{t['tensor']}[{t['axis']}]" for t in g["tensors"]),
        )
        for g in facts["groups"]
    ]
    columns = ("group", ">channels", ">MACs", ">parameters", "", "nodes", "tensors[axis]")
    total = f"{count(facts['macs'])} MACs, {count(facts['params'])} parameters"
    chosen = sum(g["selected"] for g in facts["groups"])
    return Lines(
        f"{facts['model']}: {total}, {file_size(facts['size_bytes'])}",
        f"{len(groups)} groups, {chosen} of them to be pruned, {facts['channels']} channels\n",
        table(columns, groups),
        "",
        table(("blocked axes", ">size", "by", "because"), _blocked_rows(facts["blocked"])),
    )


def _blocked_rows(blocked: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row a reason, with all axes of a tensor that it blocks."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for axis in blocked:
        for reason in axis["reasons"]:
            by = f"{reason['operator']} '{reason['node']}'"
            found.setdefault((axis["tensor"], by, reason["reason"]), []).append(axis)
    return [
        (
            f"{tensor}[{', '.join(str(a['axis']) for a in axes)}]",
            "×".join(str(a["size"]) for a in axes),
            by,
            why,
        )
        for (tensor, by, why), axes in found.items()
    ]


@command("inspect", render)
@model_argument()
@glob_options
@inexact_option
@shape_option
@open_option
def inspect(
    model: str,
    exclude: Sequence[str],
    only: Sequence[str],
    allow_inexact: bool,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    open_io: Sequence[str],
) -> Facts:
    """List the groups of channels that can be removed, and what is blocked and why."""
    from onnxprune.graph import load, opened
    from onnxprune.groups.channels import find_channels
    from onnxprune.groups.cost import cost_of
    from onnxprune.output import stored_bytes
    from onnxprune.progress import task

    with task("analyse"):
        read = opened(load(model), open_io)
        channels = find_channels(read, allow_inexact=allow_inexact, given=dict(shapes) or None)
    chosen = _chosen(channels, exclude, only)
    cost = cost_of(channels, [g for g in channels.groups if g.name in chosen])
    return {
        "model": model,
        "size_bytes": stored_bytes(model),
        **cost.figures(),
        "input_shapes": {n: list(s) for n, s in channels.typing.shapes.probed.items()},
        "groups": [_group(channels, g, cost, g.name in chosen) for g in channels.groups],
        "blocked": [_blocked(b) for b in channels.blocked],
    }


def _chosen(channels: Channels, exclude: Sequence[str], only: Sequence[str]) -> set[str]:
    """Return the names of the groups that would be pruned; none of them is an answer too."""
    from onnxprune.errors import NothingToDoError
    from onnxprune.groups.selection import select_groups

    try:
        return {g.name for g in select_groups(channels, exclude, only)}
    except NothingToDoError:
        return set()


def _group(channels: Channels, group: Group, cost: Cost, selected: bool) -> dict[str, Any]:
    """Describe a group; ``parts`` is how many parts of the network may each lose other channels of it."""
    return {
        "name": group.name,
        "size": group.size,
        "parts": channels.apart(group).size // group.size,
        "macs": round(sum(t.value({}) for t in cost.macs.of(group.factor))),
        "params": round(sum(t.value({}) for t in cost.params.of(group.factor))),
        "optional": group.optional,
        "selected": selected,
        "nodes": list(group.nodes),
        "tensors": [{"tensor": p.tensor, "axis": p.axis, "weight": p.weight} for p in group.places],
    }


def _blocked(axis: BlockedAxis) -> Mapping[str, Any]:
    reasons = [{"operator": b.operator, "node": b.node, "reason": b.reason} for b in axis.reasons]
    return {"tensor": axis.tensor, "axis": axis.axis, "size": axis.size, "reasons": reasons}
