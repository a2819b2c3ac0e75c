"""``recover``: bring back what pruning lost without training, from a few samples without labels.

Each node is made to behave as it did in the model before pruning, in order of execution, so that every
repair sees, and makes up for, what the ones before it could not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar

from onnxprune.data import Dataset, DataSpec, open_data
from onnxprune.errors import DataError, NothingToDoError, UsageError
from onnxprune.graph import Model, load
from onnxprune.masks import check_zero, dead_channels
from onnxprune.metrics import Metric, baseline_outputs, evaluate, get_metric
from onnxprune.passes.base import Pass, PassResult
from onnxprune.planned import planned_channels, stored_plan
from onnxprune.recovery import METHODS, Pair, Settings, sweep
from onnxprune.recovery.solve import scipy_linalg
from onnxprune.runtime import Array, Session

DEFAULT_SAMPLES = 512
DEFAULT_METHODS = ("least-squares",)


@dataclass(frozen=True)
class Recover(Pass):
    """Repair a sparse model, its removed channels staying exactly zero.

    Attributes:
        original: The model before pruning, or its file.
        data: Samples; labels are not looked at.
        methods: ``least-squares``, ``bias``, ``scale``, ``batchnorm``: applied at each node in this order,
            whatever order they are given in.
        samples: How many samples are used, drawn at random.
        batch_size: Samples a run.
        metric: What to measure before and after.
        val: Data to measure on; by default `data`, all of it.
        seed: Of what is drawn.
        threads: Threads to compute with.
    """

    name: ClassVar[str] = "recover"

    original: Model | str
    data: DataSpec
    methods: Sequence[str] = DEFAULT_METHODS
    samples: int = DEFAULT_SAMPLES
    batch_size: int = 32
    metric: str | None = None
    val: DataSpec | None = None
    seed: int = 0
    threads: int | None = None

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        super().requires(given)
        unknown = [m for m in self.methods if m not in METHODS]
        if unknown or not self.methods:
            what = f"there is no method '{unknown[0]}'" if unknown else "no method is given"
            raise UsageError(what, f"choose from: {', '.join(METHODS)}")
        if self.samples < 2 or self.batch_size < 1:
            raise UsageError(
                f"cannot repair with {self.samples} samples, {self.batch_size} a run", "give more"
            )
        if "least-squares" in self.methods:
            scipy_linalg()

    def run(self, given: PassResult) -> PassResult:
        """Match the two models, sweep through them, measure."""
        plan = stored_plan(given.model)
        channels = planned_channels(given.model, plan)
        removed: Mapping[str, Sequence[int]] = plan.removed if plan else dead_channels(channels)
        if not any(len(gone) for gone in removed.values()):
            raise NothingToDoError("nothing is removed from this model", "run `prune` first")
        if plan:
            check_zero(channels, removed)
        original = load(self.original) if isinstance(self.original, str) else self.original
        pair = Pair.of(channels, removed, original, plan)
        session = Session(pair.original.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs)
        exam = _Exam.open(self, session, data)
        facts: dict[str, Any] = {"methods": [m for m in METHODS if m in self.methods]}
        facts |= exam.mark(pair.sparse, "score_before") if exam else {}
        start = perf_counter()
        feeds = self._feeds(data, session.fixed_batch)
        report = sweep(pair, feeds, Settings(self.methods, self.seed, self.threads))
        facts |= {"recovery_s": perf_counter() - start, "samples": sum(_size(f) for f in feeds)}
        facts |= exam.mark(pair.sparse, "score_after") if exam else {}
        facts |= {"outputs": report.outputs, "layers": report.layers, "skipped": report.skipped}
        return PassResult(pair.sparse, bool(report.layers), facts, given.analysis)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The repaired model is valid, and what its plan names is still zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)

    def _feeds(self, data: Dataset, fixed: int | None) -> list[dict[str, Array]]:
        """Draw the samples; where the file fixes the batch, only whole batches of it."""
        feeds: list[dict[str, Array]] = []
        missing = self.samples
        for batch in data.batches(fixed or min(self.batch_size, self.samples), shuffle=True, seed=self.seed):
            if fixed is None:
                feeds.append({n: a[:missing] for n, a in batch.inputs.items()})
            elif batch.size == fixed:
                feeds.append(batch.inputs)
            missing -= batch.size
            if missing <= 0:
                break
        if not feeds:
            raise DataError(
                f"{data.name} has fewer samples than one batch of the model, which is {fixed}", "give more"
            )
        return feeds


@dataclass
class _Exam:
    """Data and a metric on it."""

    data: Dataset
    metric: Metric
    baseline: Any
    options: Recover

    @classmethod
    def open(cls, options: Recover, original: Session, data: Dataset) -> _Exam | None:
        if options.metric is None:
            return None
        metric = get_metric(options.metric)
        if options.val is not None:
            data = open_data(options.val, original.inputs, original.outputs)
        baseline = baseline_outputs(original, data) if metric.uses_baseline else None
        return cls(data, metric, baseline, options)

    def mark(self, model: Model, name: str) -> dict[str, Any]:
        session = Session(model.proto, threads=self.options.threads)
        score = evaluate(session, self.data, self.metric, baseline=self.baseline)
        return {"metric": self.metric.name, name: score}


def _size(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values())))
