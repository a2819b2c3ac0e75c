"""``rotate``: put axes that allow it into the basis in which they are best cut, exactly.

Along most axes a network commutes with permutations alone; along some with every orthogonal, or every
invertible map (`onnxprune.ops.symmetry`). There the basis is free. In the basis chosen here the channels are
ordered by their energy and by the gain of their consumers, so that a cut loses least. No node is added on the
way of a residual stream, and the result is proved equal to the input model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry, symmetries
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.decisions.bases import changed
from onnxprune.decisions.bases.absorption import absorbed
from onnxprune.decisions.bases.balance import basis
from onnxprune.decisions.bases.recognition import put_back
from onnxprune.decisions.bases.spelling import spell_out
from onnxprune.decisions.channels.own_graph import in_own_graph
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.rotation import BASIS_KEY, Rotation
from onnxprune.errors import NothingToDoError, UsageError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.ir import Model
from onnxprune.ir.canonical.canonicalise import drop_unused_constants
from onnxprune.ops.symmetry import Symmetry
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.reports import RotateReport
from onnxprune.runtime import Feeds, Session
from onnxprune.scoring.criteria.axis_moments import observed
from onnxprune.support.common_options import GroupSelection, InputSizes, Seeded, Threaded, Unchanged
from onnxprune.support.option_fields import option

DEFAULT_SAMPLES = 512
ROTATABLE = (Symmetry.ORTHOGONAL, Symmetry.LINEAR)
_CHECK = CheckBudget(seconds=5.0)


@dataclass(frozen=True)
class Rotate(GroupSelection, Unchanged, Seeded, Threaded, InputSizes, Pass):
    """Change the basis of every axis that allows it; the results stay the same up to rounding.

    Attributes:
        data: Samples, labels not needed, to choose the bases by; without data the weights alone decide: an
            .npz or .jsonl file, a folder of samples, or module:callable.
        samples: Number of samples.
        batch_size: Samples a run.
    """

    name: ClassVar[str] = "rotate"

    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    samples: int = field(default=DEFAULT_SAMPLES, metadata=option(least=2))
    batch_size: int = field(default=64, metadata=option(least=1))

    def requires(self, given: PassResult) -> None:
        """The options make sense, and nothing is pruned yet: a rotation mixes zeros with kept channels."""
        super().requires(given)
        if stored_plan(given.model) is not None:
            raise UsageError(
                f"{given.model.name} is pruned already, and a rotation would fill its zeros",
                "rotate the model before `prune`",
            )

    def run(self, given: PassResult) -> PassResult:
        """Absorb normalisations, look at samples, change bases, prove."""
        start = perf_counter()
        model, absorptions, refused, spelled = absorbed(given.model, self._selected)
        channels = find_channels(model, allow_inexact=True)
        found = symmetries(channels)
        axes = [a for a in found if self._turns(channels, a)]
        refused |= {
            a.group.name: _limit_of(a) for a in found if a not in axes and a.group.name not in refused
        }
        if not axes:
            return self._unchanged(given, refused)
        wanted = [(axis, name) for axis in axes for name in _read(axis)]
        seen = (
            observed(channels, wanted, self._feeds(channels), self.threads) if self.data is not None else {}
        )
        rotated, facts, digest = channels.model.copy(), [], sha256()
        for axis in axes:
            maps, inverses = basis(channels, axis, axis.symmetry, seen)
            changed(rotated, channels, axis, maps, inverses)
            digest.update(np.ascontiguousarray(maps).tobytes())
            facts.append(_described(axis, float(np.linalg.cond(maps).max())))
        put_back(rotated, spelled)
        spell_out(rotated, given.model)
        result = self._own(given.model, model, channels, rotated)
        error = self._prove(given.model, result)
        note = Rotation(digest.hexdigest()[:32], [fact["group"] for fact in facts])
        result.set_metadata(BASIS_KEY, note.to_text())
        report = RotateReport(
            axes=facts,
            absorbed=absorptions,
            refused=_listed(refused),
            max_rel_error=error,
            rotation_s=perf_counter() - start,
        )
        return PassResult(result, True, report)  # an analysis would be of the other basis

    def _own(self, given: Model, absorbed_model: Model, channels: Channels, rotated: Model) -> Model:
        """Return the user's own graph with the new constants, where only constants are new."""
        if absorbed_model is not given:
            drop_unused_constants(rotated)
            return rotated
        own = in_own_graph(given, channels.model, rotated)
        return rotated if own is None else own

    def _selected(self, channels: Channels) -> set[str]:
        try:
            return {g.name for g in select_groups(channels, self.exclude, self.only, optional=True)}
        except NothingToDoError:
            return set()

    def _turns(self, channels: Channels, axis: GroupSymmetry) -> bool:
        chosen = axis.group.name in self._selected(channels)
        return chosen and axis.symmetry in ROTATABLE and not _objection(channels, axis)

    def _unchanged(self, given: PassResult, refused: Mapping[str, str]) -> PassResult:
        if not self.allow_unchanged:
            first = next(iter(refused.items()), None)
            why = f": '{first[0]}': {first[1]}" if first else ""
            raise NothingToDoError(
                f"no axis of {given.model.name} can be rotated{why}",
                "`inspect --all` lists the symmetry of every axis; `allow_unchanged` copies the model",
            )
        report = RotateReport(unchanged=True, refused=_listed(refused))
        return PassResult(given.model, False, report, given.analysis)

    def _feeds(self, channels: Channels) -> Iterator[Feeds]:
        """Yield the samples; where the file fixes the batch, whole batches only."""
        assert self.data is not None
        session = Session(channels.model.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs).take(self.samples)
        fixed = session.fixed_batch
        for batch in data.batches(fixed or self.batch_size):
            if fixed is None or batch.size == fixed:
                yield batch.inputs

    def _prove(self, given: Model, rotated: Model) -> float | None:
        """Compare the rotated model with the one that was given.

        Raises:
            VerificationError: They differ.
            NotShownError: No input showed whether they do.
        """
        how: dict[str, Any] = {"data": self.data, "samples": 64} if self.data is not None else {}
        verdict = examine(given, rotated, shapes=given.sizes or None, seed=self.seed, budget=_CHECK, **how)
        demand(verdict, given.name, "its rotated form")
        return max((o.max_rel_error for o in verdict.outputs), default=None)


def _objection(channels: Channels, axis: GroupSymmetry) -> str:
    """Return why an axis with a symmetry is not rotated."""
    made = {o for node in channels.model.nodes for o in node.output} | {i.name for i in channels.model.inputs}
    kinds = {v.kind for v in axis.vectors}
    if "write" not in kinds and "shift" not in kinds:
        return "nothing with weights makes it"
    if "read" not in kinds and not axis.pairs:
        return "nothing with weights reads it"
    flows = [v.flow for v in axis.vectors] + [n for p in axis.pairs for n in (p.first, p.second)]
    if any(name not in made for name in flows):
        return "it lies within the body of a loop or a branch"
    return ""


def _read(axis: GroupSymmetry) -> list[str]:
    """Return the tensors of an axis that something reads with weights, or that are paired."""
    names = [v.flow for v in axis.vectors if v.kind == "read"]
    return list(dict.fromkeys([*names, *(n for p in axis.pairs for n in (p.first, p.second))]))


def _listed(refused: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"group": name, "reason": why} for name, why in refused.items()]


def _limit_of(axis: GroupSymmetry) -> str:
    if axis.limit is None:
        return "it is left alone"
    return f"{axis.limit.operator} '{axis.limit.node}': {axis.limit.reason}"


def _described(axis: GroupSymmetry, condition: float) -> dict[str, Any]:
    """Describe the change of basis of an axis, ready for JSON."""
    return {
        "group": axis.group.name,
        "size": axis.group.size,
        "parts": int(np.prod([o.count for o in axis.outer], dtype=int)),
        "symmetry": axis.symmetry.value,
        "condition": condition,
        "reads": sum(v.kind == "read" for v in axis.vectors),
        "writes": sum(v.kind == "write" for v in axis.vectors),
        "pairs": len(axis.pairs),
    }
