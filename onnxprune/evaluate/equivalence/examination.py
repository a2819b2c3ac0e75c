"""Two models put to the proof: from both models to the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.analysis.inputs import check_fixed_tensors
from onnxprune.errors import ModelError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.equivalence.conclusion import conclude
from onnxprune.evaluate.equivalence.contract import interface_differences
from onnxprune.evaluate.equivalence.device import with_device
from onnxprune.evaluate.equivalence.runs import CheckBudget, EquivalenceCheck, Shrunk
from onnxprune.evaluate.equivalence.subjects import (
    DifferenceError,
    UnloadableError,
    subjects,
)
from onnxprune.evaluate.equivalence.verdict import OutputVerdict, Verdict
from onnxprune.ir import Model
from onnxprune.runtime import runs_within

_LONGER = 5
"""Factor of the time allowed to a run that only measures rounding: it may be on data."""


def examine(
    reference: Model,
    candidate: Model,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    data: DataSpec | None = None,
    samples: int = 64,
    seed: int = 0,
    exact: bool = True,
    shrunk: Shrunk | None = None,
    budget: CheckBudget | None = None,
) -> Verdict:
    """Compare two models on inputs of several sizes, and on data; on the CPU, and then on the device in use.

    Args:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        shapes: Full input shapes that are known to work.
        data: Data to compare on, beside drawn inputs.
        samples: Number of samples of it.
        seed: Seed of the draws.
        exact: True if the two have to agree.
        shrunk: Kept elements of the reference's tensors in the candidate, where axes of its inputs and
            outputs have shrunk.
        budget: Budget for runs on drawn inputs.

    Returns:
        The verdict; a difference is no error here.
    """
    cuts = _cuts(reference, shrunk)
    if differences := interface_differences(reference, candidate, cuts):
        return Verdict(reason=differences[0], exact=exact, differs=True)
    try:
        check_fixed_tensors(reference)
        for stand_in in (True, False):  # a network may not take the stand-in
            made = subjects(reference, candidate, stand_in)
            examination = EquivalenceCheck(reference, candidate, made, budget or CheckBudget(), seed, shrunk)
            verdict = _examined(examination, shapes, data, samples, exact)
            if examination.count or not made.stands_in:
                break
    except UnloadableError as found:
        alone = examine(
            reference, reference, shapes=shapes, data=data, samples=samples, seed=seed, budget=budget
        )
        if alone.runs:
            return Verdict(reason=str(found), exact=exact, differs=True)
        reason = f"{alone.reason}; {found}"
        return replace(alone, reason=reason, exact=exact, unloadable=True)
    except DifferenceError as found:
        return Verdict(reason=str(found), exact=exact, differs=True)
    except ModelError as error:
        return Verdict(reason=f"{error.message}", hint=error.hint, exact=exact)
    return verdict if cuts else with_device(reference, candidate, verdict, seed)


def _cuts(model: Model, shrunk: Shrunk | None) -> dict[str, dict[int, int]]:
    """Return the lengths of the axes of inputs and outputs that have shrunk, by name and axis."""
    names = [v.name for v in (*model.inputs, *model.outputs)]
    cuts = shrunk(names).cuts if shrunk is not None else {}
    return {name: {axis: len(kept) for axis, kept in axes.items()} for name, axes in cuts.items()}


def _examined(
    of: EquivalenceCheck,
    shapes: Mapping[str, Sequence[int]] | None,
    data: DataSpec | None,
    samples: int,
    exact: bool,
) -> Verdict:
    """Run an examination to its end."""

    def verdict(outputs: tuple[OutputVerdict, ...] = (), reason: str = "", differs: bool = False) -> Verdict:
        notes = (*of.subjects.notes, *of.notes)
        hint = "" if outputs else of.limit.hint if of.limit else "give samples of real inputs with --data"
        return Verdict(outputs, of.count, tuple(of.tried.values()), notes, reason, hint, exact, differs)

    try:
        of.try_shapes(shapes)
        if data is not None:
            of.try_data(data, samples)
        of.redraw()
        of.cover_tables()
        if not of.count:
            first = next(iter(of.refusals), "no shape that is small enough was found")
            why = of.limit.message if of.limit else first
            return verdict(reason=f"the model takes no drawn inputs: {why}")
        with runs_within(_LONGER * of.budget.run_seconds):
            outputs = conclude(of)
    except DifferenceError as found:
        return verdict(reason=str(found), differs=True)
    if of.limit is not None:
        of.notes.append(f"fewer inputs were drawn: {of.limit.message}")
    if len(of.tried) == 1 and any(_is_open(i) for i in of.reference.inputs):
        of.notes.append("only one input size could be tried")
    return verdict(outputs)


def _is_open(value: object) -> bool:
    dims = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    return any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims)
