"""Groups and blocked axes in few lines: one for all equal ones, with their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxprune.app.figures import count

Entry = Mapping[str, Any]
NAMED = 3
"""Number of nodes that a line names; it counts the others."""

GROUP_COLUMNS = ("…group", ">channels", "", ">MACs", ">parameters")
BLOCKED_COLUMNS = ("…blocked axes", ">size", ">parameters", "by", "because")


def group_columns(groups: Iterable[Entry], verbose: bool, every: bool) -> tuple[str, ...]:
    """Return the columns of a table of groups.

    Args:
        groups: The groups, as `inspect` describes them.
        verbose: True if nodes are listed, and symmetries where some axis may be rotated.
        every: True if symmetries, all nodes and all tensors are listed.
    """
    if not (verbose or every):
        return GROUP_COLUMNS
    maps = ("symmetry",) if _shows_maps(groups, every) else ()
    return (*GROUP_COLUMNS, *maps, "nodes", *(("tensors[axis]",) if every else ()))


def _shows_maps(groups: Iterable[Entry], every: bool) -> bool:
    return every or any(_maps(g) not in ("", "positive scaling") for g in groups)


def group_rows(groups: Iterable[Entry], verbose: bool, every: bool) -> list[tuple[str, ...]]:
    """Return the lines of a table of groups.

    Args:
        groups: The groups, as `inspect` describes them.
        verbose: True if symmetries and nodes are listed.
        every: True if each group gets a line of its own, with all its nodes and tensors.
    """
    kinds: dict[object, list[Entry]] = {}
    groups = list(groups)
    shows_maps = _shows_maps(groups, every)
    for group in groups:
        kinds.setdefault(group["name"] if every else _kind(group), []).append(group)
    rows: list[tuple[str, ...]] = []
    for alike in kinds.values():
        first = alike[0]
        note = _note(first, len(alike) - 1)
        row: tuple[str, ...] = (
            first["name"],
            _width(first),
            note,
            count(first["macs"]),
            count(first["params"]),
        )
        if not (verbose or every):
            rows.append(row)
            continue
        row = (*row, *((_maps(first),) if shows_maps else ()))
        nodes = first["nodes"]
        tensors = (", ".join(f"{t['tensor']}[{t['axis']}]" for t in first["tensors"]),) if every else ()
        rows.append((*row, ", ".join(nodes) if every else _some(nodes), *tensors))
    return rows


def block_columns(nodes: bool) -> tuple[str, ...]:
    """Return the columns of `block_rows`."""
    return ("…residual block", "", ">MACs", ">parameters", *(("nodes",) if nodes else ()))


def block_rows(blocks: Iterable[Entry], nodes: bool, every: bool) -> list[tuple[str, ...]]:
    """Return the lines of a table of residual blocks.

    Args:
        blocks: The blocks, as `inspect` describes them.
        nodes: True if the nodes are named.
        every: True if each block gets a line of its own, with all its nodes.
    """
    kinds: dict[object, list[Entry]] = {}
    for block in blocks:
        same = (block["selected"], block["macs"], block["params"], len(block["nodes"]))
        kinds.setdefault(block["name"] if every else same, []).append(block)
    rows: list[tuple[str, ...]] = []
    for first, *others in kinds.values():
        state = "" if first["selected"] else "excluded"
        note = f"{state} and {len(others)} like it".strip() if others else state
        named = ", ".join(first["nodes"]) if every else _some(first["nodes"])
        row = (first["name"], note, count(first["macs"]), count(first["params"]))
        rows.append((*row, named) if nodes else row)
    return rows


def blocked_rows(blocked: Iterable[Entry], every: bool) -> list[tuple[str, ...]]:
    """Return the lines of a table of blocked axes: one a reason.

    Args:
        blocked: The axes, as `inspect` describes them.
        every: True if each tensor gets lines of its own.
    """
    kinds: dict[tuple[str, ...], list[tuple[Entry, str]]] = {}
    for axis in blocked:
        for reason in axis["reasons"]:
            node, why = f"{reason['operator']} '{reason['node']}'", reason["reason"]
            one: tuple[str, ...] = (axis["tensor"], node, why) if every else (reason["operator"], why)
            kinds.setdefault(one, []).append((axis, node))
    rows: list[tuple[str, ...]] = []
    for key, found in kinds.items():
        axes = [axis for axis, _ in found]
        makers = list(dict.fromkeys(node for _, node in found))
        params = sum({axis["tensor"]: axis["params"] for axis in axes}.values())
        by = makers[0] if len(makers) == 1 else f"{makers[0]} and {len(makers) - 1} more"
        rows.append((*_places(axes), count(params), by, key[-1]))
    return rows


def _kind(group: Entry) -> object:
    """Return the common properties of groups that share a line."""
    same = ("size", "unit", "parts", "macs", "params", "optional", "selected")
    return (*(group[name] for name in same), _maps(group), len(group["nodes"]), len(group["tensors"]))


def _width(group: Entry) -> str:
    return f"{group['parts']} × {group['size']}" if group["parts"] > 1 else str(group["size"])


def _note(group: Entry, more: int) -> str:
    """Return the unit where it is not channels, the reason why a group stays, and how many are like it."""
    unit = "" if group["unit"] == "channels" else group["unit"]
    state = "" if group["selected"] else ("optional" if group["optional"] else "excluded")
    note = ", ".join(filter(None, (unit, state)))
    return f"{note} and {more} like it".strip() if more else note


def _maps(group: Entry) -> str:
    """Return the symmetry of a group as text: its linear maps; empty if permutations alone."""
    symmetry = group["symmetry"]
    now, opened = symmetry["maps"], symmetry["maps_after_absorption"]
    shown = opened if now == opened else f"{opened} (after absorption)"
    return "" if opened == "permutation" else shown


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _places(axes: Sequence[Entry]) -> tuple[str, str]:
    """Return the first tensor and its axes, how many more axes there are, and their sizes."""
    tensor = axes[0]["tensor"]
    own = list({a["axis"]: a for a in axes if a["tensor"] == tensor}.values())
    more = len({(a["tensor"], a["axis"]) for a in axes}) - len(own)
    place = f"{tensor}[{', '.join(str(a['axis']) for a in own)}]" + (f" and {more} more" if more else "")
    sizes = sorted({a["size"] for a in axes})
    size = "×".join(str(a["size"]) for a in own) if not more else f"{sizes[0]}–{sizes[-1]}"
    return place, str(sizes[0]) if more and len(sizes) == 1 else size
