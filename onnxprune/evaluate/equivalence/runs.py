"""Two models put to the proof: the inputs they are run on, and the conclusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxprune.analysis.inputs import check_fixed_tensors
from onnxprune.analysis.inputs.ladder import Shapes, Trial, estimated_bytes, trial_shapes
from onnxprune.decisions.channels.dense_interface import Interface
from onnxprune.errors import EndlessError, ModelError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.equivalence.contract import interface_differences
from onnxprune.evaluate.equivalence.coverage import covering
from onnxprune.evaluate.equivalence.device import with_device
from onnxprune.evaluate.equivalence.draws import KINDS, WIDE, WIDE_FEEDS, drawn, table_rows
from onnxprune.evaluate.equivalence.judgement import allowed, is_beyond_measure, passes
from onnxprune.evaluate.equivalence.measure import Leniency, Record
from onnxprune.evaluate.equivalence.overflow import overflowing
from onnxprune.evaluate.equivalence.paths import ComputationGraph
from onnxprune.evaluate.equivalence.subjects import DifferenceError, Subjects, subjects
from onnxprune.evaluate.equivalence.tails import Pair, Tail, common_tail, picked_from
from onnxprune.evaluate.equivalence.tensor_comparison import Comparison, ReferenceRun
from onnxprune.evaluate.equivalence.verdict import OutputVerdict, Verdict
from onnxprune.evaluate.runnable import steps, without_rounding
from onnxprune.ir import Model
from onnxprune.runtime import ONE_SIDE, RUN_S, runs_within
from onnxprune.support.mapped import byte_count
from onnxprune.support.processors import ProcessorClock

Shrunk = Callable[[Iterable[str]], Interface]
SMALL = 1 << 14
"""Elements fed, below which the memory of a run is not estimated."""
_LARGEST_STEP = 128
"""Shapes of more than so many times the elements of the smallest that ran are not tried."""
_KEPT_RUNS = 24
_LONGER = 5
"""Factor of the time allowed to a run that only measures rounding: it may be on data."""
_LENIENCY: dict[str, Leniency] = {KINDS[0]: "none", WIDE: "not finite"}
_PATIENCE = 1.5
"""Factor of the budget where no shape has run yet, as long as small ones are left."""


@dataclass(frozen=True)
class CheckBudget:
    """The time and memory budget of a comparison, beyond the shapes that the file fixes.

    Attributes:
        seconds: Time from the first run on.
        size_bytes: Estimated size of all tensors of one run.
        run_seconds: Time limit of one run; after a longer one no further inputs are drawn.
    """

    seconds: float = 10.0
    size_bytes: int = 400_000_000
    run_seconds: float = RUN_S


@dataclass
class Evidence:
    """Records of pairs of tensors, and the runs that they are of."""

    records: Mapping[Pair, Record]
    runs: list[ReferenceRun]


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
        wide: The runs on numbers that cross thresholds. They may show a difference; the errors of the verdict
            are those of the other runs.
        limit: The reason why no further inputs are drawn: a run took too much time.
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
    wide: Evidence = field(init=False)
    count: int = 0
    tried: dict[str, Shapes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusals: dict[str, None] = field(default_factory=dict)
    limit: EndlessError | None = None
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
        self.wide = Evidence(self.comparison.no_records(), [])
        protos = (made.reference, made.candidate)
        self._rows = table_rows(protos)

    def compared(self, pairs: Iterable[Pair]) -> Comparison:
        """Load the two models with some pairs of tensors as their outputs."""
        made, pairs = self.subjects, list(pairs)
        names = [*(i.name for i in self.reference.inputs), *(a for a, _ in pairs)]
        interface = self.shrunk(names) if self.shrunk is not None else Interface()
        return Comparison(made.reference, made.candidate, pairs, self.graphs, interface)

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
        for place, trial in enumerate(aside if not self.tried else ()):
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
            self._draw(tried[-1], WIDE, WIDE_FEEDS)
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
        for feed in feeds:
            if took and self._is_slow() and self._is_shown():
                break
            where = _sizes_text(shapes) + (f", drawn as {kind}" if kind != KINDS[0] else "")
            leniency = _LENIENCY.get(kind, "near infinity")
            if not self._run_quietly(ReferenceRun(feed, where, leniency)):
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
        wide = run.leniency == _LENIENCY[WIDE]
        self.comparison.run(run, self.wide.records if wide else None)
        self.count += 1
        runs = self.wide.runs if wide else self.runs
        if len(runs) < _KEPT_RUNS:
            runs.append(run)

    def _is_shown(self) -> bool:
        return all(self.comparison.records[o, o].shown for o in self.subjects.outputs)

    def _is_too_large(self, shapes: Shapes, elements: int) -> bool:
        large = elements > SMALL
        return large and estimated_bytes(self.subjects.reference, shapes) > self.budget.size_bytes

    def conclude(self) -> tuple[OutputVerdict, ...]:
        """Judge every output by all that was run."""
        usual = Conclusion(self, Evidence(self.comparison.records, self.runs)).outputs()
        if not self.wide.runs or any(output.status != "agree" for output in usual):
            return usual
        wide = Conclusion(self, self.wide).outputs()
        return tuple(w if w.status == "differ" else u for u, w in zip(usual, wide, strict=True))


class Conclusion:
    """The conclusion from the runs of a check."""

    def __init__(self, examination: EquivalenceCheck, evidence: Evidence) -> None:
        self._of = examination
        self._records, self._runs = evidence.records, evidence.runs
        self._noises: dict[Pair, Record] | None = None
        self._plain: dict[Pair, Record] | None = None

    def outputs(self) -> tuple[OutputVerdict, ...]:
        """Judge the outputs, and the operands of the nodes that were cut off."""
        made = self._of.subjects
        cut = [self._judge(pair[0], pair, []) for pair in made.points]
        return (*(self._judge(o, (o, o), self._of.points[o]) for o in made.outputs), *cut)

    def _judge(self, name: str, pair: Pair, points: Sequence[Pair]) -> OutputVerdict:
        record = self._records[pair]
        comparable = [p for p in points if not self._is_other_layout(p)]
        bad = [p for p in comparable if not self._passes(p)]
        fits = self._passes(pair, saturates=bool(comparable))
        found = OutputVerdict(
            name,
            "agree",
            record.worst.max_rel_error,
            record.worst.max_abs_error,
            allowed(record, self._noise_of(pair), saturates=bool(comparable)),
            before=tuple(p[0] for p in points),
            noise=self._size_of_noise(pair),
        )
        if fits and record.shown and not bad:
            return found
        if (shown := self._by_tail(found, pair)) is not None:
            return shown
        clear = [p for p in bad if not is_beyond_measure(self._records[p], self._noise_of(p))]
        if (
            not fits
            and not clear
            and record.worst.reason == ""
            and is_beyond_measure(record, self._noise_of(pair))
        ):
            why = "the network magnifies the last place of its weights beyond the tolerance"
            return replace(found, status="not shown", reason=why)
        if (
            not fits
            and record.worst.reason in ("", ONE_SIDE)
            and (large := self._overflow(record)) is not None
        ):
            return replace(found, status="not shown", reason=large)
        if not fits:
            return replace(found, status="differ", reason=self._why(record))
        if bad:
            picked = self._records[bad[0]]
            why = f"it agrees, but '{picked.name}', which it picks from, does not: {self._why(picked)}"
            return replace(found, status="differ", reason=why)
        return replace(found, status="not shown", reason=_unshown(record))

    def _passes(self, pair: Pair, saturates: bool = False) -> bool:
        record = self._records[pair]
        if passes(record, None, saturates) and not record.rounded:
            return True
        if record.worst.reason and not record.rounded:
            return False
        return passes(record, self._noise[pair], saturates) and self._passes_unrounded(pair, saturates)

    def _passes_unrounded(self, pair: Pair, saturates: bool) -> bool:
        """Return whether a tensor agrees without the rounding of activations before it."""
        if not self._records[pair].rounded:
            return True
        made = self._of.subjects
        one, two = steps(made.reference), steps(made.candidate)
        if len(one) == len(two) and one != two:  # other steps make other numbers, if only a little
            return False
        plain = self._unrounded.get(pair)
        return plain is None or plain.rounded or passes(plain, None, saturates)

    def _is_other_layout(self, pair: Pair) -> bool:
        """Return whether two tensors are no counterparts, for they lie in other shapes."""
        return self._records[pair].worst.reason.startswith(("shape ", "type "))

    def _by_tail(self, found: OutputVerdict, pair: Pair) -> OutputVerdict | None:
        """Judge an output by the operands of the last nodes common to both models; `None` if that fails."""
        tail = common_tail(*self._of.graphs, pair[0]) if pair[0] == pair[1] else Tail((pair,), ())
        if pair in tail.ends:
            return None
        comparison = self._of.compared(tail.ends) if tail.ends else None
        records = list(comparison.over(self._runs).values()) if comparison is not None else []
        if comparison is not None and not all(r.shown and passes(r) for r in records):
            noises = comparison.noise(self._runs)
            if not all(r.shown and passes(r, noises[p]) for p, r in comparison.records.items()):
                return None
        worst = max(records, key=lambda r: r.worst.max_rel_error, default=None)
        errors = (worst.worst.max_rel_error, worst.worst.max_abs_error) if worst else (0.0, 0.0)
        why = f"judged before {', '.join(tail.jumping)}" if tail.jumping else ""
        return replace(
            found,
            max_rel_error=errors[0],
            max_abs_error=errors[1],
            allowed=allowed(worst) if worst else found.allowed,
            by=tuple(p[0] for p in tail.ends),
            reason=why,
        )

    @property
    def _noise(self) -> dict[Pair, Record]:
        if self._noises is None:
            self._noises = self._of.comparison.noise(self._runs, self._is_enough)
        return self._noises

    def _is_enough(self, noises: Mapping[Pair, Record]) -> bool:
        """Return true if all differences are rounding by the noise seen so far: more noise allows no less."""
        return all(passes(record, noises[pair]) for pair, record in self._records.items())

    @property
    def _unrounded(self) -> dict[Pair, Record]:
        """The same tensors, the activations of both models not rounded."""
        if self._plain is None:
            made, protos = self._of.subjects, []
            for proto in (made.reference, made.candidate):
                copy = type(proto)()
                copy.CopyFrom(proto)
                protos.append(copy)
            if sum(without_rounding(proto) for proto in protos):
                graphs = ComputationGraph.of(protos[0]), ComputationGraph.of(protos[1])
                interface = self._of.comparison.interface
                comparison = Comparison(protos[0], protos[1], self._records, graphs, interface)
                self._plain = comparison.over(self._runs)
                self._of.notes.append("activations are compared without their quantisation too")
            else:
                self._plain = {}
        return self._plain

    def _noise_of(self, pair: Pair) -> Record | None:
        return self._noises[pair] if self._noises is not None else None

    def _size_of_noise(self, pair: Pair) -> float | None:
        noise = self._noise_of(pair)
        return noise.worst.max_rel_error if noise is not None else None

    def _overflow(self, record: Record) -> str | None:
        """Return the reason why a difference shows nothing: both models leave the range of their numbers."""
        made, runs = self._of.subjects, [r for r in self._runs if r.where == record.where]
        name = overflowing(made.reference, runs)
        if name is None or overflowing(made.candidate, runs) is None:
            return None
        return f"with {record.where} '{name}' is no number, or next to infinity, in both models"

    def _why(self, record: Record) -> str:
        if record.worst.reason:
            return f"{record.worst.reason}, with {record.where}"
        error = f"relative error {record.worst.max_rel_error:.2e}, allowed {allowed(record):.0e}"
        if record.worst.max_rel_error <= allowed(record):
            error = f"relative error {_worst_line(record):.2e} in some of its channels"
        return f"{error}, with {record.where}"


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
            outputs = of.conclude()
    except DifferenceError as found:
        return verdict(reason=str(found), differs=True)
    if of.limit is not None:
        of.notes.append(f"fewer inputs were drawn: {of.limit.message}")
    if len(of.tried) == 1 and any(_is_open(i) for i in of.reference.inputs):
        of.notes.append("only one input size could be tried")
    return verdict(outputs)


def _elements(shapes: Shapes) -> int:
    """Return how many numbers are fed."""
    return Trial("", shapes).elements


def _is_open(value: object) -> bool:
    dims = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    return any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims)


def _sizes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Write shapes down: ``x=1×3×15×15``."""
    return ", ".join(f"{name}={'×'.join(map(str, shape)) or 'a number'}" for name, shape in shapes.items())


def _unshown(record: Record) -> str:
    """Return the reason why an output shows no difference, with a hint of the missing inputs."""
    if not record.finite:
        return "it is no finite number for any input that was drawn; give samples of real inputs with --data"
    return "it is the same for all inputs that were drawn; give samples of real inputs with --data"


def _worst_line(record: Record) -> float:
    ratios = [
        float(e / s) if s else float("inf")
        for line in record.known_lines().values()
        for e, s in zip(line.error, line.scale, strict=True)
        if e
    ]
    return max(ratios, default=0.0)
