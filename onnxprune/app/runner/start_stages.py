"""The steps of a run before its first round: the original is judged, and rotated or split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.group_symmetry import symmetries
from onnxprune.analysis.groups.reach import staying_axes
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.app.runner.journal import Entry, Facts
from onnxprune.app.runner.run_files import RunFiles
from onnxprune.decisions.bases.absorption import FREE
from onnxprune.decisions.channels.special_tokens import special_rows
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import PlanError
from onnxprune.evaluate.metrics import get_metric
from onnxprune.ir import Model, find_vocabulary
from onnxprune.ir.output import stored_bytes
from onnxprune.passes.base import PassResult
from onnxprune.passes.basis_choice import judged
from onnxprune.passes.factorize import Factorize
from onnxprune.passes.keep_rows import KeepRows, read_rows
from onnxprune.passes.plan_order import PlanOrder
from onnxprune.passes.prune import Prune
from onnxprune.passes.rotate import DEFAULT_SAMPLES as ROTATION_SAMPLES
from onnxprune.passes.rotate import Rotate

S = TypeVar("S", bound="StartStages")
ROTATED, FACTORIZED = "rotated.onnx", "factorized.onnx"


@dataclass(frozen=True)
class StartStages(RunFiles):
    """The steps before the first round.

    Attributes:
        reduction: The fraction of the budget's cost that is gone at the start.
    """

    reduction: float = 0.0

    def baseline(self) -> Entry:
        """Judge the original, count its costs, list the groups and the blocked axes."""
        inputs = self._original() | self._groups() | self.material.judged_by()
        return self.journal.step("baseline", inputs, (), self._baseline)

    def rotated(self: S) -> S:
        """Return the same steps, of the rotated model where its plan is better or the recipe asks for it."""
        mode, step = self.recipe.prune.rotate, self._rotation()
        inputs = self._original() | self._groups() | self.material.inputs("calibration")
        inputs |= {"samples": step.samples, "threads": self.material.threads, "seed": self.recipe.seed}
        if mode == "auto" and not self._better_rotated(step, inputs):
            return self
        if mode == "never":
            return self

        def work() -> Facts:
            return self._apply(step, self.recipe.model, ROTATED)

        self.journal.step("rotate", inputs, (ROTATED,), work)
        return replace(self, start=ROTATED, rotated_file=ROTATED)

    def _better_rotated(self, step: Rotate, inputs: Facts) -> bool:
        """Compare the plans of the original and of its rotated form, each with its repair."""
        budget, options = self.recipe.budget, self.recipe.prune
        if budget.of == "latency" or not self.recipe.recover.enabled:
            return False
        if not can_rotate(self._sized(self.material.original), options.exclude, options.only):
            return False
        how = options.model_dump(exclude={"exclude", "only", "allow_inexact", "rotate", "strategy"})
        how |= self._groups() | {f"reduce_{budget.of}": budget.target, "metric": self.recipe.ana.metric}
        how |= {"samples": step.samples, "seed": self.recipe.seed, "threads": self.material.threads}

        def work() -> Facts:
            prune = Prune(data=self.material.dataset("calibration"), rotate="never", **how)
            try:
                return self._compared(step, prune)
            except PlanError as error:
                return {"kept": False, "reason": error.message}

        return bool(self.journal.step("basis", inputs | {"prune": how}, (), work).facts["kept"])

    def factorized(self: S) -> S:
        """Return the same steps, of the model with layers split, if the recipe asks for it.

        Raises:
            PlanError: The splits alone remove as much as the budget.
        """
        options, budget = self.recipe.factorize, self.recipe.budget
        if not options.enabled:
            return self
        how = options.model_dump(exclude={"enabled"}) | {"seed": self.recipe.seed}
        how |= {"threads": self.material.threads, "metric": self.recipe.ana.metric}
        how |= {"input_shapes": self.recipe.shapes, "dims": self.recipe.dims}
        inputs = self._reference() | {"factorize": how} | self.material.inputs("calibration")

        def work() -> Facts:
            step = Factorize(data=self.material.dataset("calibration"), **how)
            made = step(self._whole())
            baseline = cost_of(find_channels(self._sized(self.material.original))).figures()
            made.model.set_metadata(PLAN_KEY, Plan.of_nothing(baseline).to_json())
            return self._written(made, FACTORIZED)

        facts = self.journal.step("factorize", inputs, (FACTORIZED,), work).facts
        reduction = facts.get(f"{budget.of}_reduction")
        if reduction is None:
            raise PlanError(
                f"the {budget.of} that lower ranks remove are not known",
                "give sizes with [dims], or start over",
            )
        if reduction >= budget.target:
            raise PlanError(
                f"lower ranks alone remove {reduction:.1%} of the {budget.of}, and the budget is"
                f" {budget.target:.1%}",
                "ask for less in [factorize], or for more in [budget]",
            )
        return replace(self, start=FACTORIZED, reduction=reduction)

    def _compared(self, step: Rotate, prune: Prune) -> Facts:
        """Return the comparison of the plans of the original and of its rotated form."""
        given = PassResult(self._load(self.recipe.model), False)
        rotated = replace(step, allow_unchanged=True)(given)
        if not rotated.modified:
            return {"kept": False, "reason": "no axis can be rotated"}
        order = PlanOrder(get_metric(self.recipe.ana.metric))
        return dict(judged(given, rotated, prune, order).facts["rotation"])

    def _rotation(self) -> Rotate:
        groups = {k: found for k, found in self._groups().items() if k not in ("allow_inexact", "open_io")}
        samples = min(self.recipe.ana.samples or ROTATION_SAMPLES, ROTATION_SAMPLES)
        data = self.material.dataset("calibration")
        how: dict[str, Any] = {"seed": self.recipe.seed, "threads": self.material.threads, **groups}
        return Rotate(data=data, samples=samples, **how)

    def _keep_rows(self) -> KeepRows:
        """Return the step that keeps rows of the vocabulary; special tokens are those beside the original."""
        options, original = self.recipe.vocabulary, self.material.original
        listed = set(read_rows(Path(options.keep_rows))) if options.keep_rows else set()
        counts = options.most is not None or options.min_count is not None
        special = special_rows(original, find_vocabulary(original).rows) if counts else []
        data = self.material.dataset("calibration") if counts else None
        return KeepRows(sorted(listed | set(special)), data, options.most, options.min_count)

    def _baseline(self) -> Facts:
        model, options = self.material.original, self.recipe.prune
        if self.recipe.vocabulary.enabled:
            self._keep_rows()(self._sized(model))  # a refusal comes before the first iteration
        channels = find_channels(self._sized(model), allow_inexact=options.allow_inexact)
        chosen = select_groups(channels, options.exclude, options.only)
        return {
            "metric": self.recipe.metric,
            "higher_is_better": self.material.metric.higher_is_better,
            "score": self.material.score(model),
            **cost_of(channels).figures(),
            "size_bytes": stored_bytes(self.recipe.model),
            "groups": {g.name: g.size for g in chosen},
            "spared": {g.name: g.size for g in channels.groups if g not in chosen and not g.optional},
            "blocked": _blocked(channels),
        }


def can_rotate(model: Model, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> bool:
    """Return whether any axis of a model can be rotated freely.

    Args:
        model: The model, its shapes known.
        exclude: Globs of groups, nodes or tensors to leave alone.
        only: The same of those to work on.
    """
    channels = find_channels(model, allow_inexact=True)
    chosen = {g.name for g in select_groups(channels, exclude, only, optional=True)}
    return any(axis.group.name in chosen and axis.opened in FREE for axis in symmetries(channels))


def _blocked(channels: Channels) -> list[dict[str, Any]]:
    """List why axes cannot be pruned, and which axes it is, one entry a reason."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for axis in staying_axes(channels):
        for b in axis.reasons:
            found.setdefault((b.node, b.operator, b.reason), []).append(f"{axis.tensor}[{axis.axis}]")
    return [{"node": n, "operator": o, "reason": r, "axes": a} for (n, o, r), a in found.items()]
