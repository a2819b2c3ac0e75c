"""``ana``: measure how a metric falls as each group of channels shrinks, one group at a time.

The idea is that of Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), section 3.2: the least
important channels of one group are masked, the rest of the network stays as it is, and the metric on the
user's data tells how much was lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import UsageError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.metrics import MetricSpec
from onnxprune.evaluate.sensitivity import (
    DEFAULT_CACHE_BYTES,
    Executor,
    Search,
    SensitivityRequest,
    SensitivityRun,
)
from onnxprune.evaluate.sensitivity.fast import agreement
from onnxprune.evaluate.sensitivity.ledger import check_place
from onnxprune.passes.base import Pass, PassResult
from onnxprune.scoring.criteria import check_criterion

DEFAULT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
METHODS = ("measured", "fast")
FRAGILE = 5
"""How many of the most fragile groups are named."""


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
        criterion: What ranks the channels within a group, as for `Prune`.
        repair: Whether the layers that read removed channels are fitted anew before measuring, as `Prune`
            repairs them afterwards.
        batch_size: Samples a batch, where the model does not fix it.
        samples: Only the first so many samples.
        mode: ``exact``: every ratio on all samples. ``adaptive``: ratios where the curve bends, and samples
            only until it is clear what they say.
        method: ``measured``; or ``fast``: all curves at once, estimated from one pass through the samples, by
            gradients where the model has them. The estimate is of ``kl``, whatever the metric.
        check: ``fast``: measure the curves as well, and report how well the estimate ranks.
        against: ``fast``: curves that were measured, to report how well the estimate ranks.
        confidence: ``adaptive``: how sure an interval is to hold the value over all samples.
        precision: ``adaptive``: how narrow half the interval of a plan has to be, as a fraction of its drop.
        workers: Processes; more than one needs joblib. On a cluster all it has by default.
        backend: ``local``, or a cluster: ``dask://HOST:PORT``, ``ray://HOST:PORT``.
        threads: Threads of each worker; by default they share the processors of this machine.
        file: Where the analysis is saved, after every group; ``None`` for nowhere.
        resume: Go on with what is in the file.
        force: Replace what is in the file if it cannot be gone on with.
        seed: For the criteria that draw numbers.
        input_shapes: Full shapes to analyse and run with, by input name.
        dims: Sizes to analyse and run with, by the name of an open axis of the inputs.
        open_io: Globs of inputs and outputs whose fixed axes may shrink, such as ``past*`` of caches.
        allow_inexact: Open axes that the network normalises over.
        cache_bytes: Most that all workers together keep of tensors computed once.
    """

    name: ClassVar[str] = "ana"

    data: DataSpec
    metric: MetricSpec = "top1"
    ratios: Sequence[float] = DEFAULT_RATIOS
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    criterion: str = "obs"
    repair: bool = True
    batch_size: int = 64
    samples: int | None = None
    mode: str = "exact"
    method: str = "measured"
    check: bool = False
    against: Analysis | None = None
    confidence: float = 0.95
    precision: float = 0.1
    workers: int | None = None
    backend: str = "local"
    threads: int | None = None
    file: Path | None = None
    resume: bool = False
    force: bool = False
    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    open_io: Sequence[str] = ()
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
        if self.cache_bytes < 0:
            raise UsageError(f"a cache of {self.cache_bytes} bytes makes no sense", "give 0 or more")
        if self.method not in METHODS:
            raise UsageError(f"there is no method '{self.method}'", f"choose from: {', '.join(METHODS)}")
        if self.method != "fast" and (self.check or self.against is not None):
            raise UsageError(
                "there is no estimate to be checked", "--check and --against go with --method fast"
            )
        check_criterion(self.criterion)
        self._search.check()
        self._executor.check()
        if self.file is not None:
            check_place(self.file, resume=self.resume, force=self.force)
        super().requires(given)

    def run(self, given: PassResult) -> PassResult:
        """Rehearse, measure the baseline, then group by group."""
        start = time.perf_counter()
        question = replace(self._question, input_shapes=dict(given.model.sizes))
        study = SensitivityRun.open(question, given.model, self._executor, self.cache_bytes)
        study.rehearse()
        ledger = study.begin(self.file, resume=self.resume, force=self.force)
        if self.method == "fast":
            more = study.estimate(ledger) | self._compared(ledger.analysis, given)
        else:
            more = {"evaluations": study.finish(ledger)}
        facts = analysis_facts(ledger.analysis)
        for name, curve in facts["groups"].items():
            curve.update(_work_of(study.channels, name))
        facts |= {"samples": study.dataset.samples, "method": self.method, **more}
        facts["duration_s"] = time.perf_counter() - start
        return PassResult(given.model, False, facts, ledger.analysis)

    def _compared(self, estimated: Analysis, given: PassResult) -> dict[str, Any]:
        """Say how well an estimate ranks, if there is anything to hold it against."""
        exact = self.against
        if self.check:
            step = replace(self, method="measured", check=False, against=None, file=None, metric="kl")
            exact = step(given.model).analysis
        return agreement(estimated, exact) if exact is not None else {}

    @property
    def _search(self) -> Search:
        return Search(self.mode, self.confidence, self.precision)

    @property
    def _executor(self) -> Executor:
        return Executor(self.workers, self.backend, self.threads)

    @property
    def _question(self) -> SensitivityRequest:
        names = [f.name for f in fields(SensitivityRequest) if f.name != "search"]
        return SensitivityRequest(**{name: getattr(self, name) for name in names}, search=self._search)


def analysis_facts(analysis: Analysis) -> dict[str, Any]:
    """Return what an analysis says, ready for JSON: all curves, and the groups that lose most at one half."""
    curves = {name: _curve_facts(analysis, curve) for name, curve in analysis.curves.items()}
    fragile = sorted(curves, key=lambda name: -curves[name]["drop_at_half"])
    return {
        "metric": analysis.metric,
        "higher_is_better": analysis.higher_is_better,
        "baseline": analysis.baseline,
        "groups": curves,
        "most_fragile": fragile[:FRAGILE],
    }


def _curve_facts(analysis: Analysis, curve: Curve) -> dict[str, Any]:
    drops = [analysis.drop(value) for value in curve.values]
    return {
        "size": curve.size,
        "ratios": list(curve.ratios),
        "values": list(curve.values),
        "uncertainties": list(curve.uncertainties),
        "samples": list(curve.samples),
        "drops": drops,
        "drop_at_half": float(np.interp(0.5, [0.0, *curve.ratios], [0.0, *drops])),
    }


def _work_of(channels: Channels, name: str) -> dict[str, Any]:
    """Return the multiply-accumulates that a group has a part in, ready for JSON."""
    macs = cost_of(channels).macs
    factor = next(g.factor for g in channels.groups if g.name == name)
    own = sum(term.value({}) for term in macs.of(factor))
    return {"macs": round(own), "macs_share": own / max(macs.value(), 1.0)}
