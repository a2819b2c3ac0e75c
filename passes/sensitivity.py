"""``ana``: measure how a metric falls as each group of channels shrinks, one group at a time.

The idea is that of Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), section 3.2: the least
important channels of one group are masked, the rest of the network stays as it is, and the metric on the
user's data tells how much was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from onnxprune.channels import Channels, Group, Indices, find_channels
from onnxprune.curves import DEFAULT_CACHE_BYTES, Examination, measure, usable_processors
from onnxprune.data import Dataset, DataSpec, open_data
from onnxprune.errors import DataError, UsageError
from onnxprune.graph import Model
from onnxprune.importance import score
from onnxprune.ledger import Ledger, check_place, digest_of, earlier_analysis
from onnxprune.masks import masked
from onnxprune.metrics import Baseline, MeanMetric, MetricSpec, baseline_outputs, evaluate, get_metric
from onnxprune.passes.base import Pass, PassResult
from onnxprune.plan import Analysis, Curve
from onnxprune.planned import stored_plan
from onnxprune.progress import task
from onnxprune.runtime import Array, Session
from onnxprune.selection import select_groups
from onnxprune.workers import check_workers, spread

DEFAULT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FRAGILE = 5
"""How many of the most fragile groups are named."""

_Todo: TypeAlias = tuple[str, list[dict[str, list[int]]]]  # a group and what is removed from it, step by step


@dataclass(frozen=True)
class Ana(Pass):
    """Measure the sensitivity of every group. The model stays as it is.

    Of a model that has been pruned already, the sparse model is the baseline; ratios still count from the
    whole group, and what is gone already stays gone.

    Attributes:
        data: Samples to measure on.
        metric: ``top1``, ``top5``, ``mse``, ``mae`` with labels or targets; ``kl``, ``agreement``, ``cosine``
            without, against the baseline's own outputs; ``module:callable`` or a callable.
        ratios: Fractions of a group to remove; each is rounded to whole channels.
        exclude: Globs of groups, nodes or tensors to leave out.
        only: Globs of those to measure and no others.
        criterion: What ranks the channels within a group: ``l1``, ``l2``, ``bn``, ``random``.
        batch_size: Samples a batch, where the model does not fix it.
        samples: Only the first so many samples.
        workers: Processes, single-threaded each if there is more than one. More than one needs joblib.
        file: Where the analysis is saved, after every group; ``None`` for nowhere.
        resume: Go on with what is in the file.
        force: Replace what is in the file if it cannot be gone on with.
        seed: For the criteria that draw numbers.
        input_shapes: Full shapes to analyse with, by input name.
        allow_inexact: Open axes that the network normalises over.
        cache_bytes: Most that all workers together keep of tensors computed once.
    """

    name: ClassVar[str] = "ana"

    data: DataSpec
    metric: MetricSpec = "top1"
    ratios: Sequence[float] = DEFAULT_RATIOS
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    criterion: str = "l2"
    batch_size: int = 64
    samples: int | None = None
    workers: int = 1
    file: Path | None = None
    resume: bool = False
    force: bool = False
    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    allow_inexact: bool = False
    cache_bytes: int = DEFAULT_CACHE_BYTES

    def requires(self, given: PassResult) -> None:
        """The options make sense, the file may be written, and the weights are numbers."""
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise UsageError(
                f"the ratios {list(self.ratios)} make no sense", "give fractions between 0 and 1, such as 0.5"
            )
        if self.batch_size < 1:
            raise UsageError(
                f"a batch of {self.batch_size} samples is none", "give a batch size of 1 or more"
            )
        check_workers(self.workers)
        if self.file is not None:
            check_place(self.file, resume=self.resume, force=self.force)
        super().requires(given)

    def run(self, given: PassResult) -> PassResult:
        """Rehearse, measure the baseline, then group by group."""
        start = time.perf_counter()
        study = _Study.open(self, given.model)
        study.rehearse()
        ledger = study.begin()
        evaluations = study.finish(ledger)
        facts = {
            **analysis_facts(ledger.analysis),
            "samples": study.examination.dataset.samples,
            "evaluations": evaluations,
            "duration_s": time.perf_counter() - start,
        }
        return PassResult(given.model, False, facts, ledger.analysis)

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the result, ready for JSON."""
        return {
            "metric": get_metric(self.metric).name,
            "ratios": sorted(set(self.ratios)),
            "exclude": list(self.exclude),
            "only": list(self.only),
            "criterion": self.criterion,
            "batch_size": self.batch_size,
            "samples": self.samples,
            "seed": self.seed,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            "allow_inexact": self.allow_inexact,
        }


def analysis_facts(analysis: Analysis) -> dict[str, Any]:
    """Return what an analysis says, ready for JSON: all curves, and the groups that lose most at one half."""
    drops = {name: _drop_at(analysis, curve, 0.5) for name, curve in analysis.curves.items()}
    curves = {
        name: {
            "size": curve.size,
            "ratios": list(curve.ratios),
            "values": list(curve.values),
            "drop_at_half": drops[name],
        }
        for name, curve in analysis.curves.items()
    }
    fragile = sorted(drops, key=lambda name: -drops[name])
    return {
        "metric": analysis.metric,
        "higher_is_better": analysis.higher_is_better,
        "baseline": analysis.baseline,
        "groups": curves,
        "most_fragile": fragile[:FRAGILE],
    }


def _drop_at(analysis: Analysis, curve: Curve, ratio: float) -> float:
    drops = [0.0, *map(analysis.drop, curve.values)]
    return float(np.interp(ratio, [0.0, *curve.ratios], drops))


@dataclass(frozen=True, eq=False)
class _Steps:
    """What is taken from one group, step by step.

    Attributes:
        group: The group.
        order: Its channels, those gone already first, then the least important.
        counts: How many of them are gone at each step, ascending.
        gone: How many were gone before.
    """

    group: Group
    order: Indices
    counts: tuple[int, ...]
    gone: int

    @classmethod
    def of(cls, options: Ana, channels: Channels, group: Group, gone: Sequence[int]) -> _Steps:
        """Rank the channels as `prune` does, and round the ratios to whole channels; one always stays."""
        ranked = score(channels, group, options.criterion, options.seed)
        ranked[list(gone)] = -1.0
        wanted = (min(group.size - 1, round(ratio * group.size)) for ratio in options.ratios)
        counts = sorted({max(len(gone), n) for n in wanted} - {0})
        return cls(group, np.argsort(ranked, kind="stable"), tuple(counts), len(gone))

    @property
    def variants(self) -> list[dict[str, list[int]]]:
        """The removed channels at each step that takes any."""
        return [{self.group.name: self.order[:n].tolist()} for n in self.counts if n > self.gone]

    def curve(self, baseline: float, values: Sequence[float]) -> Curve:
        """Put what was measured behind the step that takes nothing more, if there is one."""
        ratios = tuple(n / self.group.size for n in self.counts)
        return Curve(self.group.size, ratios, (baseline,) * (len(ratios) - len(values)) + tuple(values))


@dataclass(frozen=True, eq=False)
class _Study:
    """One run: a network, what is taken from each of its groups, and what that is measured by."""

    options: Ana
    model: Model
    channels: Channels
    steps: Mapping[str, _Steps]
    session: Session
    examination: Examination

    @classmethod
    def open(cls, options: Ana, model: Model) -> _Study:
        plan = stored_plan(model)
        channels = _find(model, options.allow_inexact, options.input_shapes)
        gone = plan.removed if plan else {}
        groups = select_groups(channels, options.exclude, options.only)
        steps = {g.name: _Steps.of(options, channels, g, gone.get(g.name, ())) for g in groups}
        threads = usable_processors() if options.workers == 1 else 1
        session = Session(model.proto, threads=threads)
        dataset = open_data(options.data, session.inputs, session.outputs)
        examination = Examination(
            dataset=dataset if options.samples is None else dataset.take(options.samples),
            metric=get_metric(options.metric),
            batch_size=session.fixed_batch or options.batch_size,
            whole_batches=session.fixed_batch is not None,
            threads=threads,
            cache_bytes=options.cache_bytes // options.workers,
        )
        return cls(options, model, channels, steps, session, examination)

    def rehearse(self) -> None:
        """Run one batch through the baseline, and through the network with all masked that ever will be.

        What does not fit, in the data or in a metric that judges sample by sample, shows here, in seconds.
        """
        exam = self.examination
        first = exam.dataset.take(exam.batch_size)
        if isinstance(exam.metric, MeanMetric):
            self._evaluate(first, self._remember(first))
        removed = {n: s.order[: s.counts[-1]].tolist() for n, s in self.steps.items() if s.counts}
        worst = Session(masked(self.channels, removed).proto, threads=exam.threads)
        baseline_outputs(worst, first, batch_size=exam.batch_size)

    def begin(self) -> Ledger:
        """Return what is known so far: what the file holds, or else the baseline alone."""
        options, exam, settings = self.options, self.examination, self.options.settings()
        digest = digest_of(self.model, exam.dataset.digest(), settings)
        earlier = None
        if options.file is not None and options.resume:
            earlier = earlier_analysis(options.file, digest, settings, force=options.force)
        blank = Analysis(
            digest=digest,
            metric=exam.metric.name,
            higher_is_better=exam.metric.higher_is_better,
            baseline=earlier.baseline if earlier else self._evaluate(exam.dataset, self._baseline),
            curves={},
            settings={**settings, "data": exam.dataset.name},
        )
        ledger = Ledger(blank, list(self.steps), options.file)
        ledger.record(earlier.curves if earlier else {})
        return ledger

    def finish(self, ledger: Ledger) -> int:
        """Measure the groups that are missing, saving after each; return how many evaluations that took."""
        baseline, variants = ledger.analysis.baseline, {n: self.steps[n].variants for n in ledger.missing}
        ledger.record({n: self.steps[n].curve(baseline, ()) for n, v in variants.items() if not v})
        total = sum(map(len, variants.values()))
        if total:
            todo = [(n, v) for n, v in variants.items() if v]
            with task("ana", total) as progress:
                for (name, _), values in spread(
                    self._work(ledger.analysis.digest), todo, self.options.workers
                ):
                    self._check(name, values)
                    ledger.record({name: self.steps[name].curve(baseline, values)})
                    progress.advance(len(values), note=name)
        return total

    def _work(self, digest: str) -> Callable[[_Todo], list[float]]:
        """Return what measures a group, here or in another process."""
        exam = replace(self.examination, baseline=self._baseline)
        if self.options.workers == 1:
            return partial(_measure_here, self.channels, exam)
        return _Errand.of(self, digest, exam)

    def _check(self, name: str, values: Sequence[float]) -> None:
        """Refuse a metric that is no number: no curve could be drawn."""
        metric = self.examination.metric.name
        for value, variant in zip(values, self.steps[name].variants, strict=True):
            if not np.isfinite(value):
                raise DataError(
                    f"{metric} is {value} without {len(variant[name])} channels of '{name}'",
                    "look for NaN or infinity among the model's outputs, or use another metric",
                )

    @cached_property
    def _baseline(self) -> Baseline | None:
        return self._remember(self.examination.dataset)

    def _remember(self, dataset: Dataset) -> Baseline | None:
        exam = self.examination
        if not exam.metric.uses_baseline:
            return None
        return baseline_outputs(self.session, dataset, batch_size=exam.batch_size)

    def _evaluate(self, dataset: Dataset, remembered: Baseline | None) -> float:
        exam = self.examination
        return evaluate(self.session, dataset, exam.metric, batch_size=exam.batch_size, baseline=remembered)


def _measure_here(channels: Channels, examination: Examination, todo: _Todo) -> list[float]:
    return measure(channels, examination, todo[1])


@dataclass(frozen=True)
class _Errand:
    """What a worker process needs to measure groups; it finds the channels itself, once.

    Attributes:
        digest: Tells one errand from another.
        proto: The model as bytes: an array, which is handed over through a file mapped into memory.
        allow_inexact: As for `Ana`.
        input_shapes: As for `Ana`.
        examination: What the groups are measured by.
    """

    digest: str
    proto: Array = field(compare=False)
    allow_inexact: bool = field(compare=False)
    input_shapes: Mapping[str, tuple[int, ...]] = field(compare=False)
    examination: Examination = field(compare=False)

    @classmethod
    def of(cls, study: _Study, digest: str, examination: Examination) -> _Errand:
        try:
            proto = np.frombuffer(study.model.proto.SerializeToString(), np.uint8)
        except (ValueError, EncodeError) as error:
            raise UsageError(
                f"{study.model.name} is too large to be sent to other processes: {error}", "use one worker"
            ) from error
        return cls(digest, proto, study.options.allow_inexact, study.options.input_shapes, examination)

    def __call__(self, todo: _Todo) -> list[float]:
        """Measure one group."""
        return measure(_unpacked(self), self.examination, todo[1])


@lru_cache(maxsize=1)
def _unpacked(errand: _Errand) -> Channels:
    model = Model(onnx.ModelProto.FromString(errand.proto.tobytes()))
    return _find(model, errand.allow_inexact, errand.input_shapes)


def _find(model: Model, allow_inexact: bool, input_shapes: Mapping[str, tuple[int, ...]]) -> Channels:
    """Find the groups as the model's plan did, if it carries one."""
    plan = stored_plan(model)
    return find_channels(
        model,
        allow_inexact=allow_inexact or (plan is not None and plan.allow_inexact),
        given=input_shapes or (plan.input_shapes if plan else None) or None,
    )
