"""The choice of a basis for a pruning: the plan of the rotated model against that of the given one.

Both plans meet the same budgets, each with its repair, and are judged by the same metric on the same samples.
A rotation is exact, so the better plan is kept. The comparison takes about the time of one more pruning;
after a pruning that took longer than a limit it is left out, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, TypeAlias

from onnxprune.errors import DataError, NothingToDoError, OnnxpruneError, PlanError, VerificationError
from onnxprune.ir import Model
from onnxprune.passes.base import PassResult
from onnxprune.passes.plan_order import PlanOrder, score_of
from onnxprune.support.progress import task

RotateChoice: TypeAlias = Literal["auto", "always", "never"]
Prune: TypeAlias = Callable[[PassResult], PassResult]
MOST_S = 1200.0
"""Seconds that the pruning of the given model may take for the rotated one to be tried, too."""
_REFUSALS = (PlanError, NothingToDoError, DataError, VerificationError)
"""Errors of one of the two ways, which leave the other."""


@dataclass(frozen=True)
class Way:
    """One way to prune: a model, its pruned form, and how good that is.

    Attributes:
        given: The model that is pruned.
        pruned: The result of the pruning.
        rank: The figures that ways are compared by; the smaller are the better.
    """

    given: PassResult
    pruned: PassResult
    rank: tuple[float, ...]


def chosen(
    given: PassResult,
    rotate: Callable[[PassResult], PassResult],
    prune: Prune,
    order: PlanOrder,
) -> PassResult:
    """Prune a model in its own basis and in another, and return the better result.

    Args:
        given: The model.
        rotate: The rotation.
        prune: The pruning; it measures its repaired result.
        order: The order of the two results.

    Raises:
        OnnxpruneError: Both ways fail; the error is that of the model as it was given.
    """
    try:
        with task("rotate"):
            rotated = rotate(given)
    except _REFUSALS as error:
        return with_rotation(prune(given), kept=False, reason=error.message)
    if not rotated.modified:
        return with_rotation(prune(given), kept=False, reason="no axis can be rotated")
    return judged(given, rotated, prune, order)


def judged(given: PassResult, rotated: PassResult, prune: Prune, order: PlanOrder) -> PassResult:
    """Prune a model and its rotated form, and return the better result.

    Args:
        given: The model.
        rotated: The result of `Rotate` on it.
        prune: As for `chosen`.
        order: As for `chosen`.

    Raises:
        OnnxpruneError: Both ways fail; the error is that of the model as it was given.
    """
    start = perf_counter()
    with task("prune as it is"):
        own, refusal = _tried(given, prune, order)
    taken = perf_counter() - start
    if own is not None and taken > MOST_S:
        reason = f"the plan of the model as it is took {taken:.0f} s; `rotate = always` leaves that out"
        return with_rotation(own.pruned, kept=False, reason=reason, score_unrotated=_score(own))
    with task("prune rotated"):
        other, objection = _tried(rotated, prune, order)
    if own is None and other is None:
        assert refusal is not None
        raise refusal
    facts = {"score_rotated": _score(other), "score_unrotated": _score(own)}
    if other is None or (own is not None and own.rank <= other.rank):
        assert own is not None
        reason = objection.message if objection else "the plan of the rotated model is no better"
        return with_rotation(own.pruned, kept=False, reason=reason, **facts)
    return of_rotated(rotated, other.pruned, **facts)


def of_rotated(rotated: PassResult, pruned: PassResult, **more: Any) -> PassResult:
    """Return the pruning of a rotated model, with the facts of the rotation in its report."""
    facts = rotated.facts
    figures = {"axes": facts["axes"], "absorbed": facts["absorbed"], "max_rel_error": facts["max_rel_error"]}
    result = with_rotation(pruned, kept=True, **more, **figures)
    return replace(result, original=rotated.model)


def with_rotation(result: PassResult, **facts: Any) -> PassResult:
    """Return a result that reports on the choice of its basis."""
    known = {name: value for name, value in facts.items() if value is not None}
    return replace(result, report=result.report.with_keys(rotation=known))


def node_count(model: Model) -> int:
    """Return the number of nodes of a model, bodies included."""
    return len(model.all_nodes)


def _tried(given: PassResult, prune: Prune, order: PlanOrder) -> tuple[Way | None, OnnxpruneError | None]:
    try:
        pruned = prune(given)
    except _REFUSALS as error:
        return None, error
    return Way(given, pruned, order.rank(pruned)), None


def _score(way: Way | None) -> float | None:
    return score_of(way.pruned) if way else None
