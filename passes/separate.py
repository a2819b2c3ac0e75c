"""``separate``: matrices that an exporter merged, one for each part again.

A product whose result is laid out in parts of one width, such as queries, keys and values, ties the widths of
all parts. With a matrix for each the parts can be pruned apart. It is a step of its own, for runtimes have
faster kernels for some merged forms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from onnxprune.analysis.shapes import infer
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import NothingToDoError, UsageError
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.ir import Model, label
from onnxprune.ir.canonical.canonicalise import drop_unused_constants, without_dead_nodes
from onnxprune.ir.canonical.freed import freed
from onnxprune.ir.canonical.merged import merged_products, separated
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.reports import SeparateReport
from onnxprune.support.common_options import InputSizes, Seeded, Unchanged
from onnxprune.support.option_fields import option

_CHECK = CheckBudget(seconds=5.0)


@dataclass(frozen=True)
class Separate(Unchanged, Seeded, InputSizes, Pass):
    """Split matrix products whose results are read in parts; each part gets a product of its own.

    Attributes:
        free_output: Open the width of this output instead: an identity product behind it keeps its form.
    """

    name: ClassVar[str] = "separate"
    free_output: Sequence[str] = field(default=(), metadata=option(metavar="NAME"))

    def requires(self, given: PassResult) -> None:
        """Nothing is pruned yet: a plan names groups that would be others."""
        super().requires(given)
        if stored_plan(given.model) is not None:
            raise UsageError(f"{given.model.name} is pruned already", "separate the model before `prune`")

    def run(self, given: PassResult) -> PassResult:
        """Find such products, split them, and compare with the model that was given."""
        model = given.model
        if self.free_output:
            made = freed(model, self.free_output, infer(model, model.sizes))
            opened = [{"output": name} for name in self.free_output]
            report = SeparateReport(outputs=opened, max_rel_error=self._prove(model, made))
            return PassResult(made, True, report, given.analysis)
        found = merged_products(model, infer(model, model.sizes))
        if not found:
            return self._unchanged(given)
        nodes = model.nodes
        listed = [
            {"node": label(nodes[f.product]), "operator": nodes[f.product].op_type, "parts": f.parts}
            for f in found
        ]
        made = without_dead_nodes(separated(model, found))
        drop_unused_constants(made)
        report = SeparateReport(products=listed, max_rel_error=self._prove(model, made))
        return PassResult(made, True, report, given.analysis)

    def _unchanged(self, given: PassResult) -> PassResult:
        if not self.allow_unchanged:
            raise NothingToDoError(
                f"no product of {given.model.name} is read in parts of one layout",
                "parts that are cut with Split or Slice are pruned apart as they are",
            )
        return PassResult(given.model, False, SeparateReport(unchanged=True, products=()), given.analysis)

    def _prove(self, given: Model, made: Model) -> float | None:
        """Compare both models.

        Raises:
            VerificationError: They differ.
            NotShownError: No input showed whether they do.
        """
        verdict = examine(given, made, shapes=given.sizes or None, seed=self.seed, budget=_CHECK)
        demand(verdict, given.name, "its separated form")
        return max((o.max_rel_error for o in verdict.outputs), default=None)
