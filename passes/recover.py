"""``recover``: reduce the error of pruning without training, from a few samples without labels.

The results of each node are fitted to those in the model before pruning, in order of execution, so that every
repair also compensates for the error that the repairs before it leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from onnxprune.analysis.inputs import check_fixed_tensors
from onnxprune.decisions.channels.masks import check_zero
from onnxprune.decisions.channels.planned import planned_channels, removed_channels, stored_plan
from onnxprune.decisions.channels.remaining_statistics import over_remaining, sparse_in_own_graph
from onnxprune.decisions.elements import check_kept, pattern_note
from onnxprune.errors import DataError, NothingToDoError, UsageError
from onnxprune.evaluate.data import Dataset, DataSpec, open_data
from onnxprune.evaluate.metrics import Metric, MetricSpec, baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model, load, merged
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.reports import RecoverReport
from onnxprune.passes.rotate import in_basis_of
from onnxprune.repair import METHODS, ModelPair, RepairMethod, RepairReport, Settings, sweep
from onnxprune.repair.layer_fit import fit_bytes
from onnxprune.repair.sweep import checkpoint_bytes
from onnxprune.repair.synthetic import SyntheticPair, noise
from onnxprune.runtime import Array, Session
from onnxprune.support.common_options import InputSizes, Seeded, Threaded
from onnxprune.support.memory import in_words, need
from onnxprune.support.option_fields import Key, option
from onnxprune.support.progress import tell
from onnxprune.train.tuning.original_statistics import noted

DEFAULT_SAMPLES = 512
_TRACES = 3
"""Sets of intermediate tensors: those of both models, and of one of them on its way to the next node."""
DEFAULT_METHODS: tuple[RepairMethod, ...] = ("least-squares",)


@dataclass(frozen=True)
class Recover(Seeded, Threaded, InputSizes, Pass):
    """Repair a sparse model, its removed channels staying exactly zero.

    Attributes:
        original: The model before pruning, or its file; a rotated sparse model is repaired by either the
            rotated or the unrotated one.
        data: Samples, labels not needed; without any, inputs are drawn at random, which helps less: an .npz
            or .jsonl file, a folder of samples, or module:callable.
        methods: Methods, each applied at every node in this order: ``least-squares``, ``bias``, ``scale``,
            ``batchnorm``; ``least-squares`` by default.
        samples: Number of samples, drawn at random.
        batch_size: Samples a run.
        metric: Metric to measure before and after.
        val: Data to measure on; by default ``data``.
    """

    name: ClassVar[str] = "recover"
    maps: ClassVar[bool] = True
    preserves: ClassVar[frozenset[str]] = frozenset({"plan"})

    original: Model | str = field(metadata=option(flag=""))
    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    methods: Sequence[RepairMethod] = field(
        default=DEFAULT_METHODS,
        metadata=option(flag="--method", metavar="NAME", key=Key(text="How.", note="{choices}")),
    )
    samples: int = field(
        default=DEFAULT_SAMPLES,
        metadata=option(least=2, key=Key(text="Number of samples of the calibration data.")),
    )
    batch_size: int = field(default=32, metadata=option(least=1))
    metric: MetricSpec | None = field(default=None, metadata=option(metavar="TEXT", place="reads"))
    val: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        super().requires(given)
        check_fixed_tensors(given.model)
        if not self.methods:
            raise UsageError("no method is given", f"choose from: {', '.join(METHODS)}")

    def run(self, given: PassResult) -> PassResult:
        """Match the two models, sweep through them, measure."""
        plan = stored_plan(given.model)
        channels, removed = removed_channels(given.model, plan)
        if not any(len(gone) for gone in removed.values()) and pattern_note(given.model) is None:
            raise NothingToDoError("nothing is removed from this model", "run `prune` first")
        original = load(self.original, mapped=True) if isinstance(self.original, str) else self.original
        original = replace(original, sizes=merged(original.sizes, given.model.sizes))
        original = in_basis_of(original, given.model, data=self.data, seed=self.seed)
        pair = ModelPair.of(channels, removed, original, plan)
        self._state_need(pair)
        session = Session(pair.original.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs) if self.data is not None else None
        exam = _Validation.open(self, session, data)
        facts: dict[str, Any] = {"methods": [m for m in METHODS if m in self.methods]}
        facts |= exam.mark(over_remaining(pair.sparse, channels, removed), "score_before") if exam else {}
        start = perf_counter()
        if data is None:
            shapes = merged(plan.input_shapes if plan else {}, given.model.sizes)
            feeds = noise(pair.original, session, shapes, self.samples, self.batch_size, self.seed)
            stand = SyntheticPair.on(pair, feeds, self.threads)
            report = self._sweep(stand.pair, feeds)
            repaired = stand.leave()
        else:
            feeds = self.feeds(data, session.fixed_batch)
            report = self._sweep(pair, feeds)
            repaired = pair.sparse
        facts |= {"recovery_s": perf_counter() - start, "samples": sum(_size(f) for f in feeds)}
        facts |= exam.mark(over_remaining(repaired, channels, removed), "score") if exam else {}
        facts |= {"synthetic": data is None}
        facts |= {"outputs": report.outputs, "layers": report.layers, "skipped": report.skipped}
        result = sparse_in_own_graph(given.model, channels, removed, repaired)
        if data is not None:
            noted(result, pair.original, data, seed=self.seed, threads=self.threads)
        return PassResult(result, bool(report.layers), RecoverReport(**facts), given.analysis)

    def _state_need(self, pair: ModelPair) -> None:
        """Refuse a repair that needs more memory than is allowed; tell the need where weights are mapped."""
        if "least-squares" not in self.methods:
            return
        size, layer = fit_bytes(pair)
        need(size, f"{pair.sparse.name}: the repair of node '{layer}', the largest,")
        if pair.sparse.mapped:
            samples = in_words(_TRACES * checkpoint_bytes())
            tell(
                f"{pair.sparse.name}: the repair needs about {in_words(size)} of memory for its largest layer"
                f" ('{layer}'), and at most {samples} for the samples' tensors"
            )

    def _sweep(self, pair: ModelPair, feeds: Sequence[Mapping[str, Array]]) -> RepairReport:
        return sweep(pair, feeds, Settings(self.methods, self.seed, self.threads))

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The repaired model is valid, and the channels of its plan are still zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)
        check_kept(given.model, result.model)

    def feeds(self, data: Dataset, fixed: int | None) -> list[dict[str, Array]]:
        """Draw the samples; where the file fixes the batch, only whole batches of it."""
        feeds: list[dict[str, Array]] = []
        missing = self.samples
        for batch in data.batches(fixed or min(self.batch_size, self.samples), shuffle=True, seed=self.seed):
            if fixed is None:
                feeds.append(batch.chosen(np.arange(min(missing, batch.size))))
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
class _Validation:
    """Data and a metric on it."""

    data: Dataset
    metric: Metric
    baseline: Any
    options: Recover

    @classmethod
    def open(cls, options: Recover, original: Session, data: Dataset | None) -> _Validation | None:
        if options.metric is None:
            return None
        metric = get_metric(options.metric)
        if options.val is not None:
            data = open_data(options.val, original.inputs, original.outputs)
        if data is None:
            raise UsageError(f"{metric.name} is measured on data", "give it with `val` or `data`")
        baseline = baseline_outputs(original, data) if metric.uses_baseline else None
        return cls(data, metric, baseline, options)

    def mark(self, model: Model, name: str) -> dict[str, Any]:
        session = Session(model.proto, threads=self.options.threads)
        score = evaluate(session, self.data, self.metric, baseline=self.baseline)
        return {"metric": self.metric.name, name: score}


def _size(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values())))
