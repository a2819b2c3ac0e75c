"""``prune --keep-rows``: zero the rows of a vocabulary that are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.planned import check_plan, stored_plan
from onnxprune.decisions.channels.special_tokens import special_rows
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import DataError, PlanError, UsageError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.ir import VOCABULARY_KEY, Model, Vocabulary, find_vocabulary, note_vocabulary
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.plan_reports import plan_report
from onnxprune.runtime import Array, Session
from onnxprune.support.option_fields import option

T = TypeVar("T")


@dataclass(frozen=True)
class KeepRows(Pass):
    """Zero all rows of the largest tables that the caller picks from by number, but for some.

    The rows of tables and the columns that make scores for them go together, wherever those are returned. The
    rows that stay are listed, or counted on samples, or both: then all of either stay. With counts those of
    special tokens stay, too.

    Attributes:
        keep: The numbers of the rows that stay.
        data: Samples to count on how often each row is picked: an .npz or .jsonl file, a folder of samples,
            or module:callable.
        most: Number of rows that stay, those of ``keep`` and of special tokens included: the ones that the
            samples pick most often, of equal ones the first.
        min_count: Rows that the samples pick at least so often stay.
        samples: Only the first so many samples.
        batch_size: Samples that are read at a time.
    """

    name: ClassVar[str] = "keep-rows"

    keep: Sequence[int] = ()
    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    most: int | None = field(default=None, metadata=option(least=1))
    min_count: int | None = field(default=None, metadata=option(least=1))
    samples: int | None = field(default=None, metadata=option(least=1))
    batch_size: int = field(default=64, metadata=option(least=1))

    def requires(self, given: PassResult) -> None:
        """The model has such a table, and the numbers are of its rows."""
        super().requires(given)
        rows = find_vocabulary(given.model).rows
        wrong = [row for row in self.keep if not 0 <= row < rows]
        if wrong or not (self.keep or self._counts):
            message = f"row {wrong[0]} does not exist" if wrong else "no row is to stay"
            raise UsageError(f"{message}: the table has {rows} rows", f"give numbers from 0 to {rows - 1}")
        if self._counts and self.data is None:
            raise UsageError("rows are counted on samples", "give them with `data`")

    def run(self, given: PassResult) -> PassResult:
        """Find the rows, and mask those that do not stay."""
        vocabulary = find_vocabulary(given.model)
        model = note_vocabulary(given.model, vocabulary)
        kept, facts = self._kept(given.model, vocabulary)
        earlier = stored_plan(model)
        inexact = earlier is not None and earlier.allow_inexact
        shapes = earlier.input_shapes if earlier else {}
        channels = find_channels(model, allow_inexact=inexact, given=shapes or None)
        if earlier is not None:
            before = find_channels(given.model, allow_inexact=inexact, given=shapes or None)
            earlier = _with_names_of(channels, before, earlier)
            check_plan(channels, earlier)
            channels = channels.without(earlier.within)
        name, size = _rows(channels)
        gone = tuple(np.setdiff1d(np.arange(size), kept).tolist())
        facts = {"kept_rows": size - len(gone)} | facts
        plan = Plan(
            removed={**(earlier.removed if earlier else {}), name: gone},
            sizes={**(earlier.sizes if earlier else {}), name: size},
            baseline=earlier.baseline if earlier else cost_of(channels).figures(),
            settings={**(earlier.settings if earlier else {}), **facts},
            allow_inexact=inexact,
            input_shapes=shapes,
            within=earlier.within if earlier else {},
        )
        sparse = masked(channels, plan.removed)
        sparse.set_metadata(PLAN_KEY, plan.to_json())
        return PassResult(sparse, True, plan_report(channels, plan), given.analysis)

    @property
    def _counts(self) -> bool:
        return self.most is not None or self.min_count is not None

    def _kept(self, model: Model, vocabulary: Vocabulary) -> tuple[Array, dict[str, Any]]:
        """Return the numbers of the rows that stay, ascending, and facts about the counts.

        Raises:
            UsageError: More rows stay in any case than are asked for.
        """
        kept = set(self.keep)
        if not self._counts:
            return np.asarray(sorted(kept)), {}
        counts = self._counted(model, vocabulary)
        special = special_rows(model, vocabulary.rows)
        kept |= set(special)
        if self.min_count is not None:
            kept |= set(np.flatnonzero(counts >= self.min_count).tolist())
        if self.most is not None:
            if len(kept) > self.most:
                raise UsageError(
                    f"{len(kept)} rows stay in any case, and {self.most} are asked for",
                    "listed rows, special tokens and those of the least count stay: ask for more",
                )
            ranked = [int(row) for row in np.argsort(-counts, kind="stable") if int(row) not in kept]
            kept |= set(ranked[: self.most - len(kept)])
        rows = np.asarray(sorted(kept))
        if not len(rows):
            raise UsageError("no row is to stay: the samples pick none so often", "ask for a smaller count")
        covered = float(counts[rows].sum() / max(counts.sum(), 1))
        return rows, {"special_rows": len(special), "picks_covered": round(covered, 6)}

    def _counted(self, model: Model, vocabulary: Vocabulary) -> Array:
        """Return how often the samples pick each row, ``[rows]``.

        Raises:
            DataError: They pick a row that does not exist.
        """
        assert self.data is not None
        session = Session(model.proto)
        data = open_data(self.data, session.inputs, session.outputs)
        data = data if self.samples is None else data.take(self.samples)
        feeds = (batch.inputs[name] for batch in data.batches(self.batch_size) for name in vocabulary.inputs)
        return count_rows(feeds, vocabulary.rows, data.name)


def read_rows(path: Path) -> list[int]:
    """Return the numbers that a text file lists, ascending, each once.

    Raises:
        PlanError: The file cannot be read, or holds something else.
    """
    try:
        return sorted({int(word) for word in path.read_text("utf-8").replace(",", " ").split()})
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read {path}: {error}", "give a text file with a number a line") from error


def count_rows(picked: Iterable[Array], rows: int, source: str) -> Array:
    """Return how often each row of a table is picked, ``[rows]``; negative numbers count from the end.

    Args:
        picked: Arrays of numbers of rows.
        rows: Number of rows of the table.
        source: Origin of the numbers, for the message.

    Raises:
        DataError: A row does not exist.
    """
    counts = np.zeros(rows, np.int64)
    for numbers in picked:
        flat = numbers.astype(np.int64).ravel()
        wrong = flat[(flat < -rows) | (flat >= rows)]
        if len(wrong):
            raise DataError(
                f"{source} picks row {wrong[0]} of a table of {rows} rows", "are these ids of this model?"
            )
        counts += np.bincount(np.where(flat < 0, flat + rows, flat), minlength=rows)
    return counts


def _with_names_of(channels: Channels, before: Channels, plan: Plan) -> Plan:
    """Return a plan with the names that its groups have once the rows of the vocabulary are a group, too.

    Args:
        channels: The network with the rows as a group.
        before: The network as the plan names its groups.
        plan: The plan.
    """
    names = {frozenset(group.places): group.name for group in channels.groups}
    new = {group.name: names.get(frozenset(group.places), group.name) for group in before.groups}

    def renamed(part: Mapping[str, T]) -> dict[str, T]:
        return {new.get(name, name): value for name, value in part.items()}

    removed, sizes, within = renamed(plan.removed), renamed(plan.sizes), renamed(plan.within)
    return replace(plan, removed=removed, sizes=sizes, within=within)


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
