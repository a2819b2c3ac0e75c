"""The runs of two models that are put to the proof, and the inputs of these runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.analysis.inputs.ladder import Shapes, Trial, estimated_bytes, trial_shapes
from onnxprune.decisions.channels.dense_interface import Interface
from onnxprune.errors import EndlessError, LimitError, ModelError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.equivalence.coverage import covering
from onnxprune.evaluate.equivalence.draws import APART, KINDS, WHOLE, drawn, feeds_of, table_rows
from onnxprune.evaluate.equivalence.judgement import passes
from onnxprune.evaluate.equivalence.measure import Leniency, Record
from onnxprune.evaluate.equivalence.paths import ComputationGraph
from onnxprune.evaluate.equivalence.subjects import Subjects
from onnxprune.evaluate.equivalence.tails import Pair, picked_from
from onnxprune.evaluate.equivalence.tensor_comparison import Comparison, ReferenceRun
from onnxprune.evaluate.runnable import shown_by
from onnxprune.ir import Model
from onnxprune.runtime import RUN_S, runs_within
from onnxprune.support.mapped import byte_count
from onnxprune.support.processors import ProcessorClock

Shrunk = Callable[[Iterable[str]], Interface]
SMALL = 1 << 14
"""Elements fed, below which the memory of a run is not estimated."""
_LARGEST_STEP = 128
"""Shapes of more than so many times the elements of the smallest that ran are not tried."""
_KEPT_RUNS = 24
_LENIENCY: dict[str, Leniency] = {KINDS[0]: "none", **dict.fromkeys(APART, "not finite")}
_PATIENCE = 1.5
"""Factor of the budget where no shape has run yet, as long as small ones are left."""


@dataclass(frozen=True)
class CheckBudget:
    """The time and memory budget of a comparison, beyond the shapes that the file fixes.

    Attributes:
        seconds: Time for drawn inputs, from the first run on; measuring rounding takes more.
        size_bytes: Estimated size of all tensors of one run.
        run_seconds: Time limit of one run; after a longer one no further inputs are drawn.
    """

    seconds: float = 10.0
    size_bytes: int = 400_000_000
    run_seconds: float = RUN_S


@dataclass
class Evidence:
    """Records of pairs of tensors, and the runs that they are of.

    Attributes:
        records: The records, by pair.
        runs: The runs.
        apart: True if the runs may show a difference only, never that there is none.
        exact: True if the inputs are whole numbers: no jump is explained by the rounding of inputs.
    """

    records: Mapping[Pair, Record]
    runs: list[ReferenceRun]
    apart: bool = False
    exact: bool = False


@dataclass
class EquivalenceCheck:
    """Two models, and the runs made with them so far.

    Attributes:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        subjects: The two, ready to run.
        budget: Budget for runs on drawn inputs.
        seed: Seed of the draws.
        shrunk: Elements of tensors of the reference that the candidate has left.
        apart: The runs on numbers that cross thresholds, by kind. They may show a difference; the errors of
            the verdict are those of the other runs.
        limit: The reason why no further inputs are drawn: a run took too much time, or memory.
        refusals: Errors of the reference on drawn inputs.
    """

    reference: Model
    candidate: Model
    subjects: Subjects
    budget: CheckBudget
    seed: int = 0
    shrunk: Shrunk | None = None
    graphs: tuple[ComputationGraph, ComputationGraph] = field(init=False)
    points: dict[str, list[Pair]] = field(init=False)
    comparison: Comparison = field(init=False)
    runs: list[ReferenceRun] = field(default_factory=list)
    apart: dict[str, Evidence] = field(init=False)
    count: int = 0
    tried: dict[str, Shapes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: dict[str, None] = field(default_factory=dict)
    limit: LimitError | None = None
    _watch: ProcessorClock = field(default_factory=ProcessorClock)
    _kind: str = KINDS[0]
    _of_sizes: set[str] = field(default_factory=set)
    _last: str = ""

    def __post_init__(self) -> None:
        """Load the two models with all that is to be compared as their outputs."""
        made = self.subjects
        self.graphs = ComputationGraph.of(made.reference), ComputationGraph.of(made.candidate)
        self.points = {o: picked_from(*self.graphs, o) for o in made.outputs}
        pairs = [(o, o) for o in made.outputs]
        pairs += [*made.points, *(p for points in self.points.values() for p in points)]
        self.comparison = self.compared(pairs)
        self.apart = {k: Evidence(self.comparison.no_records(), [], True, k == WHOLE) for k in APART}
        protos = (made.reference, made.candidate)
        self._rows = table_rows(protos)

    def compared(self, pairs: Iterable[Pair]) -> Comparison:
        """Load the two models with some pairs of tensors as their outputs."""
        made, pairs = self.subjects, list(pairs)
        names = [*(i.name for i in self.reference.inputs), *(a for a, _ in pairs)]
        interface = self._interface(names) if self.shrunk is not None else Interface()
        return Comparison(made.reference, made.candidate, pairs, self.graphs, interface)

    def _interface(self, names: Sequence[str]) -> Interface:
        """Return the elements of tensors that are left; copies that show a tensor have shrunk as it has."""
        assert self.shrunk is not None
        cuts = self.shrunk([*names, *map(shown_by, names)]).cuts
        found = {name: cuts.get(name) or cuts.get(shown_by(name)) for name in names}
        return Interface({name: axes for name, axes in found.items() if axes})

    @property
    def spent(self) -> float:
        """Seconds since the first run."""
        return self._watch.seconds

    def try_shapes(self, given: Mapping[str, Sequence[int]] | None) -> None:
        """Run drawn inputs of one shape of each kind, as far as the budget goes."""
        self._watch = ProcessorClock()
        done: set[str] = set()
        smallest = 0
        aside: list[Trial] = []
        for trial in trial_shapes(self.reference, given):
            spent = self.limit is not None or self.spent > self._patience(trial)
            if spent or (smallest and trial.elements > max(_LARGEST_STEP * smallest, SMALL)):
                break
            if trial.kind in done:
                continue
            if self._is_too_large(trial.shapes, trial.elements):
                aside.append(trial)
            elif self._try(trial):
                done.add(trial.kind)
                smallest = min(smallest, trial.elements) if smallest else trial.elements
        unfit = self.subjects.stands_in and self.refusals  # the stand-in does not fit, at any size
        for place, trial in enumerate(aside if not (self.tried or unfit) else ()):
            spent = place > 0 and self.spent > self._patience(trial)
            if self.limit or spent or self._try(trial):
                break

    def _patience(self, trial: Trial) -> float:
        """Return the seconds to spend before a shape is tried: more while small shapes fail for many reasons.

        One reason for all shapes, its numbers included, does not depend on the sizes.
        """
        small = trial.elements <= _LARGEST_STEP * SMALL
        patient = small and not self.tried and len(self.refusals) != 1
        return self.budget.seconds * (_PATIENCE if patient else 1)

    def try_data(self, data: DataSpec, samples: int) -> None:
        """Run samples of data."""
        session = self.comparison.session
        dataset = open_data(data, session.inputs, session.outputs)
        for batch in dataset.take(samples).batches(session.fixed_batch or 16):
            self._run(ReferenceRun(batch.inputs, f"samples of {dataset.name}"))

    def redraw(self) -> None:
        """Draw in other ways: masks that hide something, wide numbers, others until all outputs are shown.

        A network of one input is drawn no further at sizes beyond the memory budget, which its file fixes,
        and after half of the time, once all outputs are shown.
        """
        by_size = sorted(self.tried.values(), key=_elements)
        tried = [s for s in by_size if _elements(s) <= SMALL][-2:] or by_size[:1]
        for shapes in tried if not self.limit else ():
            if not self._is_enough(shapes):
                self._draw(shapes, KINDS[1], 1 if self.spent > self.budget.seconds else 2)
        if tried and self._kind == KINDS[0] and not self.limit and not self._is_enough(tried[-1]):
            for kind in APART:
                self._draw(tried[-1], kind, feeds_of(kind, tried[-1]))
        for kind in KINDS[2:]:
            for shapes in tried:
                if self.limit or self._is_shown() or self.spent > self.budget.seconds:
                    return
                if kind != self._kind:
                    self._draw(shapes, kind, 2)

    def _is_enough(self, shapes: Shapes) -> bool:
        alone = len(self.comparison.session.inputs) == 1
        costly = self._is_slow() or self._is_too_large(shapes, _elements(shapes))
        return alone and costly and self._is_shown()

    def cover_tables(self) -> None:
        """Feed every number that an integer input may take, as far as the budget goes."""
        if not self.limit and self.tried and self._rows and self._kind == KINDS[0]:
            left = self.budget.seconds - self.spent
            specs = self.comparison.session.inputs
            run, shapes = self._run_quietly, self._largest()
            self.notes += covering(self.reference, specs, shapes, self._rows, run, left, self._is_light)

    def _is_light(self, shapes: Shapes) -> bool:
        """Return whether a run of mapped models takes less memory than half of their weights."""
        if not self.reference.mapped:
            return True
        weights = sum(map(byte_count, self.reference.proto.graph.initializer))
        return estimated_bytes(self.subjects.reference, shapes) <= weights // 2

    def _largest(self) -> Shapes:
        return max(self.tried.values(), key=_elements)

    def _try(self, trial: Trial) -> bool:
        """Run a shape with the first kind of values that the reference takes; return whether there is one.

        An error that all kinds of values met at one shape is one of sizes: at other shapes it ends the trial.
        """
        met: list[str] = []
        for kind in (self._kind,) if self.tried else KINDS:
            if self.limit or (met and met[-1] in self._of_sizes):
                return False
            if self._draw(trial.shapes, kind, 2 if len(self.tried) < 3 else 1):
                self._kind = kind
                self.tried[_sizes_text(trial.shapes)] = trial.shapes
                return True
            met.append(self._last)
        if len(met) == len(KINDS) and len(set(met)) == 1:
            self._of_sizes.update(met)
        return False

    def _refuse(self, message: str) -> None:
        """Note why the reference does not take an input."""
        self.refusals.setdefault(message)
        self._last = re.sub(r"\d+", "#", message)

    def _is_slow(self) -> bool:
        """Return true once half of the time is gone: then sizes come before further draws of one size."""
        return self.spent > self.budget.seconds / 2

    def _draw(self, shapes: Shapes, kind: str, count: int) -> bool:
        """Run drawn inputs; return whether the reference takes any."""
        took = False
        specs = self.comparison.session.inputs
        try:
            feeds = drawn(self.reference, specs, shapes, kind, count=count, seed=self.seed)
        except ModelError as error:  # the network is known to take no such sizes
            self._refuse(error.message)
            return False
        except MemoryError:
            message = f"the memory does not suffice for inputs of {_sizes_text(shapes)}"
            self.limit = LimitError(message, "allow more with --memory, or give smaller sizes with --shape")
            return False
        for feed in feeds:
            if took and self._is_slow() and self._is_shown():
                break
            where = _sizes_text(shapes) + (f", drawn as {kind}" if kind != KINDS[0] else "")
            leniency = _LENIENCY.get(kind, "near infinity")
            if not self._run_quietly(ReferenceRun(feed, where, leniency, kind if kind in APART else "")):
                break
            took = True
        return took

    def _run_quietly(self, run: ReferenceRun) -> bool:
        """Run inputs; return whether the reference takes them."""
        try:
            with runs_within(self.budget.run_seconds):
                self._run(run)
        except EndlessError as error:
            self.limit = self.limit or error
            return False
        except ModelError as error:
            self._refuse(error.message)
            return False
        return True

    def _run(self, run: ReferenceRun) -> None:
        apart = self.apart.get(run.apart)
        records = apart.records if apart else self.comparison.records
        before = {pair: record.worst.max_rel_error for pair, record in records.items()}
        self.comparison.run(run, apart.records if apart else None)
        self.count += 1
        larger = [r for pair, r in records.items() if r.worst.max_rel_error > before[pair]]
        if apart:
            apart.runs.append(run)
        elif len(self.runs) < _KEPT_RUNS or not all(map(passes, larger)):
            self.runs.append(run)  # rounding is measured on the runs of the largest differences too

    def _is_shown(self) -> bool:
        return all(self.comparison.records[o, o].shown for o in self.subjects.outputs)

    def _is_too_large(self, shapes: Shapes, elements: int) -> bool:
        large = elements > SMALL
        return large and estimated_bytes(self.subjects.reference, shapes) > self.budget.size_bytes


def _elements(shapes: Shapes) -> int:
    """Return how many numbers are fed."""
    return Trial("", shapes).elements


def _sizes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Write shapes down: ``x=1×3×15×15``."""
    return ", ".join(f"{name}={'×'.join(map(str, shape)) or 'a number'}" for name, shape in shapes.items())
