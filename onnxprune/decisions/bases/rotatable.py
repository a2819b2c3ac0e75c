"""A model with the axes that can be put into another basis, and its rewrite by given maps."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry, symmetries
from onnxprune.decisions.bases.absorption import FREE, Absorption, Selected, absorbed
from onnxprune.decisions.bases.change import changed
from onnxprune.decisions.bases.recognition import put_back
from onnxprune.decisions.bases.spelling import spell_out
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.decisions.rotation import Bases, Maps
from onnxprune.errors import PlanError
from onnxprune.ir import Model
from onnxprune.ir.canonical.canonicalise import drop_unused_constants
from onnxprune.ops.symmetry import Symmetry

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_CONDITION = 1e4
"""Largest condition number of a map that is accepted; `MOST_CONDITION` is that of a map that is chosen."""
_ORTHOGONAL = 1e-4
"""Largest deviation of ``T·Tᵀ`` from the identity of a map along an axis that keeps lengths only."""


@dataclass(frozen=True)
class Rotatable:
    """A model whose normalisations are absorbed, and the axes whose basis is free then.

    Attributes:
        given: The model as it was given.
        absorption: The model without the normalisations that its weights absorb.
        channels: The groups of that model.
        axes: The axes that can be rotated.
        refused: By group, why others keep their basis.
    """

    given: Model
    absorption: Absorption
    channels: Channels
    axes: list[GroupSymmetry]
    refused: Mapping[str, str]

    @classmethod
    def of(cls, model: Model, selected: Selected) -> Rotatable:
        """Absorb normalisations, and find the axes.

        Args:
            model: A model.
            selected: Names the groups that are wanted.
        """
        absorption = absorbed(model, selected)
        channels = find_channels(absorption.model, allow_inexact=True)
        selected_names, axes = selected(channels), []
        refused: dict[str, str] = {}
        made = channels.model.main_values
        for axis in symmetries(channels):
            chosen = axis.group.name in selected_names and axis.symmetry in FREE
            why = _objection(axis, made) if chosen else _limit_of(axis)
            if why:
                refused[axis.group.name] = why
            else:
                axes.append(axis)
        return cls(model, absorption, channels, axes, refused | dict(absorption.refused))

    @classmethod
    def like(cls, model: Model, bases: Bases) -> Rotatable:
        """Find the axes of a rotated model in the file that it was made from.

        Args:
            model: A model that is not rotated.
            bases: The bases of another.

        Raises:
            PlanError: The model does not have these axes, or an axis does not allow its map.
        """
        note = bases.note
        names = {*note.axes, *note.absorbed}
        found = cls.of(model, lambda _: names)
        axes = {a.group.name: a for a in found.axes}
        for name in note.axes:
            if why := _misfit(axes.get(name), bases.maps[name]):
                raise PlanError(
                    f"{model.name} cannot be put into the basis of the rotated model: axis '{name}' {why}",
                    "give the model that was rotated, as it was before",
                )
        return found

    def rotated(self, maps: Maps) -> Model:
        """Return the model in other bases, in the user's own graph where only constants are new.

        Args:
            maps: The map of each axis, by its name; other axes keep their basis.
        """
        model = self.channels.model.copy()
        for axis in self.axes:
            if axis.group.name in maps:
                wide = maps[axis.group.name].astype(np.float64)
                changed(model, self.channels, axis, wide, np.linalg.inv(wide))
        put_back(model, self.absorption.spelled)
        spell_out(model, self.given)
        result = self._own(model)
        for key, text in Bases.of(maps, self.absorption.groups).to_metadata().items():
            result.set_metadata(key, text)
        return result

    def _own(self, rotated: Model) -> Model:
        if self.absorption.model is not self.given:
            drop_unused_constants(rotated)
            return rotated
        own = in_own_graph(self.given, self.channels.model, rotated)
        return rotated if own is None else own


def _misfit(axis: GroupSymmetry | None, maps: Array) -> str:
    """Return why a map is none of an axis; empty if it is one."""
    if axis is None:
        return "is not there, or its basis is not free"
    parts, size = int(np.prod([o.count for o in axis.outer], dtype=int)), axis.group.size
    if maps.shape[:2] != (parts, size):
        return f"has {parts} × {size} channels, and {maps.shape[0]} × {maps.shape[1]} there"
    wide = maps.astype(np.float64)
    if axis.symmetry is Symmetry.ORTHOGONAL:
        allowed = np.abs(wide @ wide.transpose(0, 2, 1) - np.eye(size)).max() <= _ORTHOGONAL
        return "" if allowed else "allows orthogonal maps, and its map there is none"
    return "" if np.linalg.cond(wide).max() <= _MOST_CONDITION else "has a map there that is not invertible"


def _objection(axis: GroupSymmetry, made: Container[str]) -> str:
    """Return why an axis with a symmetry is not rotated.

    Args:
        axis: The axis.
        made: The tensors of the main graph that are no constants.
    """
    kinds = {v.kind for v in axis.vectors}
    if "write" not in kinds and "shift" not in kinds:
        return "nothing with weights makes it"
    if "read" not in kinds and not axis.pairs:
        return "nothing with weights reads it"
    flows = [v.flow for v in axis.vectors] + [n for p in axis.pairs for n in (p.first, p.second)]
    if any(name not in made for name in flows):
        return "it lies within the body of a loop or a branch"
    return ""


def _limit_of(axis: GroupSymmetry) -> str:
    if axis.limit is None:
        return "it is left alone"
    return f"{axis.limit.operator} '{axis.limit.node}': {axis.limit.reason}"
