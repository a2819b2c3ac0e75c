"""One run of `ana`: a network, the removal steps of each of its groups, and the measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.selection import select_prunable
from onnxprune.analysis.groups.slots import ranked
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.channels.remaining_statistics import over_remaining
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.decisions.rotation import basis_of
from onnxprune.evaluate.data import Dataset, open_data
from onnxprune.evaluate.metrics import MeanMetric, answers, get_metric
from onnxprune.evaluate.sensitivity.adaptive_search import Search
from onnxprune.evaluate.sensitivity.executor import Executor
from onnxprune.evaluate.sensitivity.fast import estimate
from onnxprune.evaluate.sensitivity.ledger import Ledger, digest_of, earlier_analysis
from onnxprune.evaluate.sensitivity.refit import Refit
from onnxprune.evaluate.sensitivity.remote_task import RemoteTask, Todo, find, packed
from onnxprune.evaluate.sensitivity.request import RemovalSteps, SensitivityRequest
from onnxprune.evaluate.sensitivity.sample_stages import (
    MeasurementSetup,
    MetricAccumulator,
    check_number,
    observe,
)
from onnxprune.evaluate.sensitivity.variants import VariantEvaluator
from onnxprune.evaluate.suggestion import suggest
from onnxprune.ir import Model
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import score
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.calibration_pass import PRODUCT_SAMPLES, gather
from onnxprune.scoring.criteria.criteria import CRITERIA
from onnxprune.scoring.criteria.eliminations import observed_readers, weigh
from onnxprune.scoring.criteria.pair_costs import pair_costs
from onnxprune.support.progress import task


@dataclass(frozen=True, eq=False)
class SensitivityRun:
    """A sensitivity analysis: its options, and the network and data to run it on.

    Attributes:
        question: Options of the analysis.
        model: The network.
        channels: Its groups.
        schedules: Steps of removal of each group, by its name, in order of execution.
        session: The network, ready to run.
        dataset: The samples.
        examination: Setup of the measurement; without stages at first.
        executor: Executor of the work.
        refit: The layers that are fitted anew; ``None`` for none.
    """

    question: SensitivityRequest
    model: Model
    channels: Channels
    schedules: Mapping[str, RemovalSteps]
    session: Session
    dataset: Dataset
    examination: MeasurementSetup
    executor: Executor
    refit: Refit | None = None

    @classmethod
    def open(
        cls, question: SensitivityRequest, model: Model, executor: Executor, cache_bytes: int
    ) -> SensitivityRun:
        """Find the groups, open the data, and rank the channels as `prune` does.

        Args:
            question: Options of the analysis.
            model: The network.
            executor: Executor of the work.
            cache_bytes: Most that all workers together keep of tensors computed once.
        """
        session = Session(model.proto, threads=executor.threads_each)
        dataset = open_data(question.data, session.inputs, session.outputs)
        chosen = dataset if question.samples is None else dataset.take(question.samples)
        metric = question.metric or suggest(model, session, chosen).measured
        question = replace(question, metric=metric)
        examination = MeasurementSetup(
            metric=get_metric(metric),
            batch_size=session.fixed_batch or question.batch_size,
            whole_batches=session.fixed_batch is not None,
            threads=executor.threads_each,
            cache_bytes=cache_bytes // executor.sharing,
        )
        plan = stored_plan(model)
        gone = plan.removed if plan else {}
        channels = find(model, question.allow_inexact, question.input_shapes)
        groups, blocks = select_prunable(channels, question.exclude, question.only)
        seen, refit = _calibrated(question, channels, chosen, examination)
        judged = {
            g.name: score(channels, channels.apart(g), question.criterion, question.seed, seen)
            for g in groups
        }
        channels, scores = ranked(channels, judged, gone)
        schedules = {
            g.name: RemovalSteps.of(question.ratios, g, scores[g.name], gone.get(g.name, ())) for g in groups
        }
        if question.method == "measured":
            schedules |= {b.name: RemovalSteps.whole(b, gone=b.name in gone) for b in blocks}
            schedules = _in_order(channels, schedules)
        return cls(question, model, channels, schedules, session, chosen, examination, executor, refit)

    def rehearse(self) -> None:
        """Run one batch through the network, and through the network with all masked that ever will be.

        Data that do not fit, or a metric that fails, show here, in seconds.
        """
        first = self.dataset.take(self.examination.batch_size)
        if isinstance(self.examination.metric, MeanMetric):
            observe(self.session, [first], self.examination)
        for _ in answers(self._worst, first, self.examination.batch_size):
            pass

    def observed(self) -> SensitivityRun:
        """Return the study with the network's own value, and the samples in the order they are needed."""
        total = self.dataset.count()
        ranks = np.random.default_rng(self.question.seed).permutation(total)
        by_sample = isinstance(self.examination.metric, MeanMetric)
        ends = self.question.search.stages(total) if by_sample else [total]
        starts = [0, *ends[:-1]]
        parts = [self.dataset.chosen((ranks >= a) & (ranks < b)) for a, b in zip(starts, ends, strict=True)]
        examination = replace(self.examination, samples=total)
        examination = observe(self.session, parts if len(parts) > 1 else [self.dataset], examination)
        study = replace(self, examination=examination)
        if self.question.search.mode == "exact":
            return study
        return replace(study, question=replace(self.question, search=study._scaled()))

    def _scaled(self) -> Search:
        """Measure the drop without all removable channels, on the first stage of the samples."""
        exam, stage = self.examination, self.examination.stages[0]
        search, tally = (
            replace(self.question.search, groups=len(self.schedules)),
            MetricAccumulator(exam.metric),
        )
        for index, answer in enumerate(answers(self._worst, stage.dataset, exam.batch_size)):
            tally.add(answer.against(exam.baseline, index))
        if tally.scores is None or stage.scores is None:
            return replace(search, scale=abs(exam.value))
        drop = abs(float(stage.scores.mean() - tally.scores.mean()))
        return replace(search, scale=drop if np.isfinite(drop) else abs(exam.value))

    @cached_property
    def _worst(self) -> Session:
        """The network without the channels of the last step of every group."""
        removed = {
            n: s.order[: s.counts[-1]].tolist()
            for n, s in self.schedules.items()
            if s.counts and isinstance(s.group, Group)
        }
        bare = over_remaining(masked(self.channels, removed), self.channels, removed)
        return Session(bare.proto, threads=self.examination.threads)

    def begin(self, file: Path | None, *, resume: bool, force: bool) -> Ledger:
        """Return the analysis so far: the content of the file, or else the baseline alone."""
        settings = self.question.settings()
        digest = digest_of(self.model, self.dataset.digest(), settings)
        earlier = None
        if file is not None and resume:
            earlier = earlier_analysis(file, digest, settings, force=force)
        blank = Analysis(
            digest=digest,
            metric=self.examination.metric.name,
            higher_is_better=self.examination.metric.higher_is_better,
            baseline=earlier.baseline if earlier else math.nan,
            curves={},
            settings={**settings, "data": self.dataset.name, "basis": basis_of(self.model.metadata())},
        )
        ledger = Ledger(blank, list(self.schedules), file)
        if earlier is not None:
            ledger.adopt(earlier)
        return ledger

    def finish(self, ledger: Ledger, later: Collection[str] = ()) -> int:
        """Measure the groups that are missing, saving after each; return how many points that took."""
        missing = [name for name in ledger.missing if name not in later]
        if not missing:
            return 0
        study = self.observed()
        baseline = study.examination.value
        todo = [(name, self.schedules[name].steps) for name in missing]
        idle = {name: self.schedules[name].curve(baseline, Curve(0, (), ())) for name, s in todo if not s}
        ledger.analysis = replace(ledger.analysis, baseline=baseline)
        ledger.record(idle)
        return study._measure(ledger, [(name, steps) for name, steps in todo if steps])

    def estimate(self, ledger: Ledger) -> dict[str, Any]:
        """Estimate all curves at once; return how that was done, ready for JSON.

        The estimate is of the divergence from the network's own answers, which is zero to begin with.
        """
        begin, missing = time.perf_counter(), set(ledger.missing)
        found = estimate(
            self.channels,
            [s.group for s in self.schedules.values() if isinstance(s.group, Group)],
            self.dataset,
            batch_size=self.examination.batch_size,
            threads=self.executor.threads_each,
            seed=self.question.seed,
        )
        curves = {n: s.curve(0.0, found.curve(n, s.steps)) for n, s in self.schedules.items() if n in missing}
        ledger.analysis = replace(
            ledger.analysis,
            metric="kl",
            higher_is_better=False,
            baseline=0.0,
            settings={**ledger.analysis.settings, "estimated_by": found.by},
        )
        ledger.record(curves)
        seconds = time.perf_counter() - begin
        return {"estimated_by": found.by, "no_gradients": found.reason, "estimate_duration_s": seconds}

    def _measure(self, ledger: Ledger, todo: list[Todo]) -> int:
        points = 0
        with task("ana", sum(len(steps) for _, steps in todo)) as progress:
            for (name, steps), found in self.executor.spread(self._work(), todo):
                for ratio, value in zip(found.ratios, found.values, strict=True):
                    count = round(ratio * self.schedules[name].group.size)
                    subject = f"the model without {count} channels of '{name}'"
                    check_number(self.examination.metric, value, subject)
                points += len(found.values)
                ledger.record({name: self.schedules[name].curve(self.examination.value, found)})
                progress.advance(len(steps), note=name)
        return points

    def _work(self) -> Callable[[Todo], Curve]:
        """Return the function that measures a group, here or elsewhere."""
        search, route = self.question.search, list(self.schedules)
        if self.executor.alone:
            stops = [[name] for name in self.schedules]
            examiner = VariantEvaluator(self.channels, self.examination, stops, self.refit)
            return lambda todo: search.curve(examiner, route.index(todo[0]), todo[1])
        return RemoteTask(
            uuid4().hex,
            packed(self.model),
            self.question.allow_inexact,
            self.question.input_shapes,
            {name: a.order for name, a in self.channels.arrangements.items()},
            self.examination,
            route,
            search,
            self.refit,
        )


def _in_order(channels: Channels, schedules: Mapping[str, RemovalSteps]) -> dict[str, RemovalSteps]:
    """Return the schedules with each block before the first group whose weights are read after its end."""
    index, begins = channels.model.index, dict[str, int]()
    latest = 0
    for name, schedule in schedules.items():
        group = schedule.group
        weights = [p.tensor for p in group.places] if isinstance(group, Group) else group.weights
        first = min((k for w in weights for k in index.readers(w)), default=latest)
        latest = begins[name] = max(first, latest) if isinstance(group, Group) else first
    return {name: schedules[name] for name in sorted(schedules, key=begins.__getitem__)}


def _calibrated(
    question: SensitivityRequest, channels: Channels, data: Dataset, examination: MeasurementSetup
) -> tuple[CalibrationStatistics | None, Refit | None]:
    """Return the statistics of the criterion and the moments for refitting, from one pass of samples."""
    size, threads = examination.batch_size, examination.threads
    if not question.repair or question.method != "measured":
        how: dict[str, Any] = {"batch_size": question.batch_size, "threads": threads, "seed": question.seed}
        return gather(channels, question.criterion, data, **how), None
    batches = data.take(PRODUCT_SAMPLES).batches(size)
    feeds = [b.inputs for b in batches if not examination.whole_batches or b.size == size]
    seen = list(observed_readers(channels, feeds, threads, question.seed, together=True))
    if CRITERIA[question.criterion].needs == "products":
        pairs = pair_costs(channels, feeds, threads)
        evidence: CalibrationStatistics | None = weigh(channels, seen, pairs)
    else:
        how = {"batch_size": question.batch_size, "threads": threads, "seed": question.seed}
        evidence = gather(channels, question.criterion, data, **how)
    return evidence, Refit.of(channels, seen)
