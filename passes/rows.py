"""``prune --keep-rows``: zero the rows of a vocabulary that are not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.planned import check_plan, stored_plan
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import PlanError, UsageError
from onnxprune.ir import VOCABULARY_KEY, find_vocabulary, note_vocabulary
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.reports import plan_report


@dataclass(frozen=True)
class KeepRows(Pass):
    """Zero all rows of the largest tables that the caller picks from by number, but for some.

    The rows of tables and the columns that make scores for them go together, wherever those are returned.

    Attributes:
        keep: The numbers of the rows that stay.
    """

    name: ClassVar[str] = "keep-rows"

    keep: Sequence[int] = ()

    def requires(self, given: PassResult) -> None:
        """The model has such a table, and the numbers are of its rows."""
        super().requires(given)
        rows = find_vocabulary(given.model).rows
        wrong = [row for row in self.keep if not 0 <= row < rows]
        if wrong or not self.keep:
            said = f"row {wrong[0]} does not exist" if wrong else "no row is to stay"
            raise UsageError(f"{said}: the table has {rows} rows", f"give numbers from 0 to {rows - 1}")

    def run(self, given: PassResult) -> PassResult:
        """Find the rows, and mask those that are not named."""
        model = note_vocabulary(given.model, find_vocabulary(given.model))
        earlier = stored_plan(model)
        inexact = earlier is not None and earlier.allow_inexact
        shapes = earlier.input_shapes if earlier else {}
        channels = find_channels(model, allow_inexact=inexact, given=shapes or None)
        if earlier is not None:
            check_plan(channels, earlier)
            channels = channels.without(earlier.within)
        name, size = _rows(channels)
        gone = tuple(np.setdiff1d(np.arange(size), np.asarray(self.keep)).tolist())
        plan = Plan(
            removed={**(earlier.removed if earlier else {}), name: gone},
            sizes={**(earlier.sizes if earlier else {}), name: size},
            baseline=earlier.baseline if earlier else cost_of(channels).figures(),
            settings={**(earlier.settings if earlier else {}), "kept_rows": size - len(gone)},
            allow_inexact=inexact,
            input_shapes=shapes,
            within=earlier.within if earlier else {},
        )
        sparse = masked(channels, plan.removed)
        sparse.set_metadata(PLAN_KEY, plan.to_json())
        return PassResult(sparse, True, plan_report(channels, plan), given.analysis)


def _rows(channels: Channels) -> tuple[str, int]:
    """Return the name of the group that the rows are, and its size."""
    rows = channels.typing.rows
    assert rows is not None, VOCABULARY_KEY
    found = [g for g in channels.groups if g.factor in factors(rows)]
    if len(found) != 1 or found[0].size != rows.size:
        reasons = {f"{b.operator} '{b.node}': {b.reason}" for f in factors(rows) for b in f.blocks}
        raise PlanError(
            "the rows of the vocabulary cannot go",
            "; ".join(sorted(reasons)) or "they are cut into parts on their way",
        )
    return found[0].name, found[0].size
