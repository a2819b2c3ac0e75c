"""``rotate``: put axes that allow it into the basis in which they are best cut, exactly.

Along most axes a network commutes with permutations alone; along some with every orthogonal, or every
invertible map (`onnxprune.ops.symmetry`). There the basis is free. In the basis chosen here the channels are
ordered by their energy and by the gain of their consumers, so that a cut loses least. No node is added on the
way of a residual stream, and the result is proved equal to the input model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.group_symmetry import GroupSymmetry
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.decisions.bases.balance import basis
from onnxprune.decisions.bases.rotatable import Rotatable
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.rotation import Bases, Maps, basis_of, check_basis
from onnxprune.errors import NothingToDoError, PlanError, UsageError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.ir import Model, load, sized_like
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.reports import RotateReport
from onnxprune.runtime import Feeds, Session
from onnxprune.scoring.criteria.axis_moments import observed
from onnxprune.support.common_options import GroupSelection, InputSizes, Seeded, Threaded, Unchanged
from onnxprune.support.option_fields import option
from onnxprune.support.progress import task

DEFAULT_SAMPLES = 512
_CHECK = CheckBudget(seconds=5.0)


@dataclass(frozen=True)
class Rotate(GroupSelection, Unchanged, Seeded, Threaded, InputSizes, Pass):
    """Change the basis of every axis that allows it; the results stay the same up to rounding.

    Attributes:
        data: Samples, labels not needed, to choose the bases by; without data the weights alone decide: an
            .npz or .jsonl file, a folder of samples, or module:callable.
        samples: Number of samples.
        batch_size: Samples a run.
        like: Rotated or sparse model whose bases are taken, instead of chosen; it was made from this model.
    """

    name: ClassVar[str] = "rotate"

    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    samples: int = field(default=DEFAULT_SAMPLES, metadata=option(least=2))
    batch_size: int = field(default=64, metadata=option(least=1))
    like: Model | str | None = field(default=None, metadata=option(place="reads"))

    def requires(self, given: PassResult) -> None:
        """The options make sense, and nothing is pruned yet: a rotation mixes zeros with kept channels."""
        super().requires(given)
        if stored_plan(given.model) is not None:
            raise UsageError(
                f"{given.model.name} is pruned already, and a rotation would fill its zeros",
                "rotate the model before `prune`",
            )
        if self.like is not None and (self.exclude or self.only):
            raise UsageError("`like` names the axes that are rotated", "give no `exclude` and no `only`")

    def run(self, given: PassResult) -> PassResult:
        """Absorb normalisations, choose bases on samples or take those of another model, rewrite, prove."""
        if self.like is not None:
            like = load(self.like, mapped=True) if isinstance(self.like, str) else self.like
            return rotated_like(given, bases_of(like), data=self.data, seed=self.seed)
        start = perf_counter()
        found = Rotatable.of(given.model, self._selected)
        if not found.axes:
            return self._unchanged(given, found.refused)
        pairs = [(axis, name) for axis in found.axes for name in _read(axis)]
        feeds = self._feeds(found.channels)
        seen = observed(found.channels, pairs, feeds, self.threads) if self.data is not None else {}
        with task("choose bases", total=len(found.axes)) as progress:
            maps = {}
            for axis in found.axes:
                maps[axis.group.name] = basis(found.channels, axis, axis.symmetry, seen)
                progress.advance(note=axis.group.name)
        return _proved(given, found, maps, start, data=self.data, seed=self.seed)

    def _selected(self, channels: Channels) -> set[str]:
        try:
            return {g.name for g in select_groups(channels, self.exclude, self.only, optional=True)}
        except NothingToDoError:
            return set()

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


def rotated_like(
    given: PassResult, bases: Bases, *, data: DataSpec | None = None, seed: int = 0
) -> PassResult:
    """Put a model into the bases of another, that was made from it, and prove the result equal.

    Args:
        given: The model.
        bases: The bases of a rotated model, or of its sparse form.
        data: Samples to compare on, beside random inputs.
        seed: Seed of these.

    Raises:
        PlanError: The model does not have these axes, or is rotated itself.
        VerificationError: The rotated model differs from the given one.
        NotShownError: No input showed whether it does.
    """
    start = perf_counter()
    if basis_of(given.model.metadata()) is not None:
        raise PlanError(f"{given.model.name} is rotated already", "give the model that was rotated")
    return _proved(given, Rotatable.like(given.model, bases), bases.maps, start, data=data, seed=seed)


def in_basis_of(original: Model, sparse: Model, *, data: DataSpec | None = None, seed: int = 0) -> Model:
    """Return the original of a sparse model in the basis of that model.

    Args:
        original: The model before pruning: the rotated one, or the one before the rotation.
        sparse: The sparse model, or another that was made from the original.
        data: Samples to prove the rotation on, beside random inputs.
        seed: Seed of these.

    Raises:
        PlanError: The original is another model, or in another basis, or the sparse one holds no maps.
        VerificationError: The rotated original differs from the given one.
        NotShownError: No input showed whether it does.
    """
    expected, found = basis_of(sparse.metadata()), basis_of(original.metadata())
    if expected is not None and found is None:
        rotated = rotated_like(PassResult(original, False), bases_of(sparse), data=data, seed=seed).model
        return sized_like(replace(rotated, path=original.path), original)
    check_basis(
        expected,
        found,
        f"the original {original.name}",
        "give the model that was pruned, or the one before its rotation",
    )
    return original


def _proved(
    given: PassResult, found: Rotatable, maps: Maps, start: float, *, data: DataSpec | None, seed: int
) -> PassResult:
    """Rotate a model, and compare the result with it."""
    model = found.rotated(maps)
    with task("compare with the rotated model"):
        error = _error(given.model, model, data, seed)
    turned = [axis for axis in found.axes if axis.group.name in maps]
    report = RotateReport(
        axes=[_described(axis, float(np.linalg.cond(maps[axis.group.name]).max())) for axis in turned],
        absorbed=found.absorption.nodes,
        refused=_listed(found.refused),
        max_rel_error=error,
        rotation_s=perf_counter() - start,
    )
    return PassResult(model, True, report)  # an analysis would be of the other basis


def _error(given: Model, rotated: Model, data: DataSpec | None, seed: int) -> float | None:
    """Return the largest relative error of a rotated model.

    Raises:
        VerificationError: It differs from the model that was given.
        NotShownError: No input showed whether it does.
    """
    how: dict[str, Any] = {"data": data, "samples": 64} if data is not None else {}
    verdict = examine(given, rotated, shapes=given.sizes or None, seed=seed, budget=_CHECK, **how)
    demand(verdict, given.name, "its rotated form")
    return max((o.max_rel_error for o in verdict.outputs), default=None)


def bases_of(model: Model) -> Bases:
    """Return the bases of a rotated or sparse model.

    Raises:
        PlanError: It is not rotated, or holds no maps.
    """
    found = Bases.stored(model.metadata())
    if found is None:
        is_rotated = basis_of(model.metadata()) is not None
        why = "holds the digest of its bases, not the maps" if is_rotated else "is not rotated"
        raise PlanError(f"{model.name} {why}", "give the sparse or the rotated model, as it was written")
    return found


def _read(axis: GroupSymmetry) -> list[str]:
    """Return the tensors of an axis that something reads with weights, or that are paired."""
    names = [v.flow for v in axis.vectors if v.kind == "read"]
    return list(dict.fromkeys([*names, *(n for p in axis.pairs for n in (p.first, p.second))]))


def _listed(refused: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"group": name, "reason": why} for name, why in refused.items()]


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
