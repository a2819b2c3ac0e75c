"""A verdict on two models, or an error with the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnxprune.analysis.groups.channels import Channels, cuts_inexactly
from onnxprune.decisions.channels.dense_interface import Interface
from onnxprune.decisions.channels.planned import planned_channels, removed_channels, stored_plan
from onnxprune.decisions.channels.remaining_statistics import is_corrected
from onnxprune.decisions.channels.summary import PRUNED_KEY
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import NotShownError, VerificationError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.equivalence.examination import examine
from onnxprune.evaluate.equivalence.runs import CheckBudget
from onnxprune.evaluate.equivalence.verdict import Verdict
from onnxprune.evaluate.runnable import unknown_operators
from onnxprune.ir import OPEN_KEY, VOCABULARY_KEY, Model, merged


def verify(
    sparse: Model,
    dense: Model,
    *,
    data: DataSpec | None = None,
    samples: int = 64,
    seed: int = 0,
    channels: Channels | None = None,
    budget: CheckBudget | None = None,
) -> Verdict:
    """Compare two models, and raise an error unless they are shown to compute the same.

    Args:
        sparse: The model that is right by definition.
        dense: The model to be judged.
        data: Data to compare on, beside drawn inputs.
        samples: Number of samples of the data.
        seed: Seed of the drawn inputs.
        channels: The groups of the first, where they are known already.
        budget: Budget for runs on drawn inputs.

    Raises:
        VerificationError: They differ, although they have to agree.
        NotShownError: No input showed whether they differ.
    """
    plan = stored_plan(sparse)
    verdict = examine(
        sparse,
        dense,
        shapes=merged(plan.input_shapes if plan else {}, sparse.sizes),
        data=data,
        samples=samples,
        seed=seed,
        exact=is_exact(sparse, channels),
        shrunk=_shrunk(sparse, plan, channels),
        budget=budget,
    )
    demand(verdict, sparse.name, dense.name, _hint(sparse, dense))
    return verdict


def _hint(reference: Model, candidate: Model) -> str:
    """Return advice for a difference between a model and one that was made from it by pruning."""
    pruned = {PLAN_KEY, PRUNED_KEY}
    if pruned.intersection(reference.metadata()) or not pruned.intersection(candidate.metadata()):
        return ""
    return (
        f"{candidate.name} is pruned and {reference.name} is not, so that their outputs differ: `bench` with"
        " `metric` measures by how much; a dense model equals the sparse one that it was made from"
    )


def _shrunk(
    sparse: Model, plan: Plan | None, channels: Channels | None
) -> Callable[[Iterable[str]], Interface] | None:
    """Return a function from names to the remaining elements, where tensors that are compared may shrink."""
    opened = {OPEN_KEY, VOCABULARY_KEY}.intersection(sparse.metadata())
    if not opened and not unknown_operators(sparse.proto):  # their operands are compared
        return None
    if plan is None:
        found, dead = removed_channels(sparse, None)
        return lambda names: Interface.of(found, dead, names)
    known, removed = channels or planned_channels(sparse, plan), plan.removed
    return lambda names: Interface.of(known, removed, names)


def demand(verdict: Verdict, reference: str, candidate: str, hint: str = "") -> None:
    """Raise an error unless two models are shown to compute the same, or need not.

    Args:
        verdict: On the two.
        reference: Name of the first in messages.
        candidate: Name of the second.
        hint: Advice for a difference.

    Raises:
        VerificationError: They differ, or only the first can be loaded.
        NotShownError: Nothing is shown.
    """
    if verdict.status == "not shown":
        message = f"it is not shown that {reference} and {candidate} compute the same: {verdict.explanation}"
        kind = VerificationError if verdict.unloadable else NotShownError
        raise kind(message, verdict.hint or "give samples of real inputs with --data", verdict.facts())
    if verdict.status == "differ" and (verdict.exact or verdict.differs):
        message = f"{reference} and {candidate} do not compute the same: {verdict.explanation}"
        usual = "if neither was changed by other tools, please report this: it is a defect of onnxprune"
        raise VerificationError(message, hint or usual, verdict.facts())


def is_exact(sparse: Model, channels: Channels | None = None) -> bool:
    """Return true if a model has to compute the same without its removed channels: unless a plan is inexact.

    Args:
        sparse: A model; without a plan in it, the answer is yes.
        channels: Its groups, where they are known already.
    """
    plan = stored_plan(sparse)
    if plan is None or not plan.allow_inexact:
        return True
    channels = channels or planned_channels(sparse, plan)
    return not cuts_inexactly(channels, plan.removed) or is_corrected(sparse, channels, plan.removed)
