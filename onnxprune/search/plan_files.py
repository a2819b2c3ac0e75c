"""Plans as files that people read, edit and apply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.analysis.groups.blocks import PREFIX
from onnxprune.decisions.plan import Plan
from onnxprune.decisions.rotation import BASIS_KEY, MAPS_KEY
from onnxprune.errors import PlanError
from onnxprune.search.planner import Planner
from onnxprune.support.json_forms import ANYTHING, COUNT, TEXT, MappingOf, OneOf, check_form, read_form

FORMAT = 1
_KIND = "onnxprune plan"
_WIDTH = {"size": COUNT, "keep": COUNT, "removed?": OneOf([COUNT], [[COUNT]])}
_KEPT, _REMOVED = "kept", "removed"
_PLAN_FILE = {
    "groups": MappingOf(_WIDTH),
    "blocks?": MappingOf(TEXT),
    "settings?": MappingOf(ANYTHING),
    "bases?": MappingOf(TEXT),
}
_MADE_BY = "`prune --plan-out` writes such files"


@dataclass(frozen=True)
class Width:
    """The width of a group in a plan file.

    Attributes:
        size: Number of its channels.
        keep: Number of those that stay.
        removed: Those that go, row by row where they differ from part to part. If a single row has another
            number than ``keep`` implies, its channels are removed before others, in the order of the scores.
    """

    size: int
    keep: int
    removed: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class PlanFile:
    """A plan outside a model.

    Attributes:
        widths: Widths by group name.
        settings: Settings the plan was made with, for the record.
        blocks: Names of the residual blocks that are removed.
        bases: Bases of the model that it is of, where that was rotated: notes by the key of the metadata.
    """

    widths: Mapping[str, Width]
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    bases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, metadata: Mapping[str, str] | None = None) -> PlanFile:
        """Return the plan a sparse model carries as one that can be edited.

        Args:
            plan: The plan.
            metadata: The metadata of the sparse model; of a rotated one the file holds the bases, too.
        """
        widths = {
            name: Width(plan.sizes[name], plan.sizes[name] - len(gone), plan.within.get(name, (tuple(gone),)))
            for name, gone in plan.removed.items()
            if not name.startswith(PREFIX)
        }
        blocks = tuple(name for name in plan.removed if name.startswith(PREFIX))
        bases = {key: text for key, text in (metadata or {}).items() if key in (BASIS_KEY, MAPS_KEY)}
        return cls(widths, plan.settings, blocks, bases)

    def to_json(self) -> str:
        """Return the plan as JSON, a line for each group."""
        groups = [
            f"  {json.dumps(name)}: {json.dumps({'size': w.size, 'keep': w.keep, 'removed': _listed(w)})}"
            for name, w in self.widths.items()
        ]
        head = {"kind": _KIND, "format": FORMAT, "settings": dict(self.settings)}
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        removed = [f"  {json.dumps(name)}: {json.dumps(_REMOVED)}" for name in self.blocks]
        blocks = [' "blocks": {', ",\n".join(removed), " },"] if removed else []
        bases = [f' "bases": {json.dumps(dict(self.bases))},'] if self.bases else []
        parts = [*lines, *bases, *blocks, ' "groups": {', ",\n".join(groups), " }"]
        return "\n".join(["{", *parts, "}"]) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the plan") -> PlanFile:
        """Read a plan back, edited or not. ``removed`` may be left out.

        Raises:
            PlanError: The text is no plan, or impossible.
        """
        try:
            content = read_form(text, {"kind": TEXT, "format": COUNT})
            if content["kind"] != _KIND or content["format"] != FORMAT:
                raise PlanError(f"{name} is not a plan of a format this version reads", _MADE_BY)
            check_form(content, _PLAN_FILE)
            widths = {str(group): _width(group, entry) for group, entry in content["groups"].items()}
            blocks = _removed_blocks(content.get("blocks", {}))
        except ValueError as error:
            raise PlanError(f"{name} is no plan: {error}", _MADE_BY) from error
        return cls(widths, dict(content.get("settings", {})), blocks, dict(content.get("bases", {})))


def _removed_blocks(listed: Mapping[str, str]) -> tuple[str, ...]:
    for name, choice in listed.items():
        if choice not in (_KEPT, _REMOVED):
            raise ValueError(f"'{name}' is '{choice}', neither '{_KEPT}' nor '{_REMOVED}'")
    return tuple(name for name, choice in listed.items() if choice == _REMOVED)


def _listed(width: Width) -> list[Any]:
    rows = [list(row) for row in width.removed]
    return rows[0] if len(rows) == 1 else rows


def _width(name: str, entry: Mapping[str, Any]) -> Width:
    size, keep, listed = int(entry["size"]), int(entry["keep"]), list(entry.get("removed", []))
    rows = listed if listed and isinstance(listed[0], list) else [listed]
    removed = tuple(tuple(sorted(int(i) for i in row)) for row in rows)
    if not 1 <= keep <= size:
        raise ValueError(f"group '{name}' of {size} channels cannot keep {keep}")
    if any(len(set(row)) != len(row) or not max(row, default=0) < size for row in removed):
        raise ValueError(
            f"group '{name}' of {size} channels cannot lose {_listed(Width(size, keep, removed))}"
        )
    return Width(size, keep, removed)


def removed_channels(planner: Planner, plan: PlanFile) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Return the channels that a plan removes, and their rows where they differ from part to part.

    Raises:
        PlanError: It names a group or a block that is not there or is left alone, or restores a removed one.
    """
    offers = {o.group.name: o for o in planner.offers("uniform")}
    found = {name: list(gone) for name, gone in planner.gone.items()}
    known = {block.name for block in planner.blocks}
    for name in plan.blocks:
        if name not in known and name not in found:
            raise PlanError(
                f"the plan removes '{name}', which is no block that is to be pruned here",
                "`inspect` lists the blocks; those that are excluded cannot be in a plan",
            )
        found[name] = [0]
    rows: dict[str, Any] = {}
    for name, width in plan.widths.items():
        offer = offers.get(name)
        if offer is None or offer.group.size != width.size:
            raise PlanError(
                f"the plan names group '{name}' of {width.size} channels, which is not to be pruned here",
                "`inspect` lists the groups; those that are excluded cannot be in a plan",
            )
        count, earlier = width.size - width.keep, planner.gone.get(name, ())
        if all(len(row) == count for row in width.removed):
            found[name] = list(width.removed[0])
            if len(width.removed) > 1:
                rows[name] = width.removed
        else:
            listed = set(width.removed[0]) if len(width.removed) == 1 else set()
            order = sorted(offer.order.tolist(), key=lambda c: c not in earlier and c not in listed)
            found[name] = sorted(order[:count])
        if not set(earlier) <= set(found[name]):
            raise PlanError(
                f"the plan keeps channels of group '{name}' that are gone already",
                "apply it to the model before it was pruned, or keep fewer",
            )
    return {name: gone for name, gone in found.items() if gone}, rows
