"""``ana``: measure how a metric falls as each group of channels shrinks, one group at a time.

The idea is that of Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), section 3.2: the least
important channels of one group are masked, the rest of the network stays as it is, and the loss is the
change of the metric on the user's data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.inputs import check_fixed_tensors
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import OnnxpruneError, UsageError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.metrics import MetricSpec
from onnxprune.evaluate.sensitivity import (
    DEFAULT_CACHE_BYTES,
    Executor,
    Mode,
    Search,
    SensitivityRequest,
    SensitivityRun,
)
from onnxprune.evaluate.sensitivity.fast import agreement
from onnxprune.evaluate.sensitivity.ledger import Ledger, check_place
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.prune import Prune
from onnxprune.passes.recover import Recover
from onnxprune.passes.reports import AnaReport
from onnxprune.scoring.criteria import check_criterion
from onnxprune.scoring.criteria.calibration_pass import PRODUCT_SAMPLES
from onnxprune.search.plan_files import PlanFile
from onnxprune.support.common_options import (
    GroupSelection,
    InexactAxes,
    InputSizes,
    OpenInterface,
    Seeded,
    Threaded,
)
from onnxprune.support.option_fields import Key, option

DEFAULT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Method = Literal["measured", "fast"]
FRAGILE = 5
"""Number of the most fragile groups that are named."""


@dataclass(frozen=True)
class Ana(GroupSelection, InexactAxes, OpenInterface, Seeded, Threaded, InputSizes, Pass):
    """Measure the sensitivity of every group. The model stays as it is.

    Of a model that has been pruned already, the sparse model is the baseline; ratios still count from the
    whole group, and channels that are removed already stay removed.

    Attributes:
        data: Data to measure on: an .npz or .jsonl file, a folder of samples, or module:callable.
        metric: ``top1``, ``top5``, ``mse``, ``mae`` with labels or targets; ``kl``, ``agreement``,
            ``cosine``, ``retrieval``, ``detections``, ``cer``, ``perplexity`` without; or
            ``module:callable``. By default ``top1`` with labels, else the one that suits the outputs, such as
            ``kl`` for classes and ``cosine`` for other numbers.
        ratios: Fractions of a group to remove.
        criterion: Criterion that ranks the channels of a group; the names are those of `prune`.
        repair: Fit the layers that read removed channels anew before measuring, as `prune` does.
        batch_size: Samples a batch.
        samples: Only the first so many samples.
        method: ``measured``, or ``fast``: all curves at once, estimated from one pass through the samples.
        mode: ``exact``, or ``adaptive``: ratios where the curves bend, on as many samples as it takes.
        check: ``fast``: measure too, and report how well the estimate ranks.
        against: ``fast``: an analysis that was measured, to report the same.
        confidence: ``adaptive``: how sure an interval is to hold the value over all samples.
        precision: ``adaptive``: how narrow half the interval of a plan has to be, as a fraction of its drop.
        workers: Processes to measure in: 1 here, or all that a cluster has.
        backend: ``local``, or a cluster that runs: dask://HOST:PORT, ray://HOST:PORT.
        cache_bytes: Most that all workers together keep of tensors computed once.
        resume: Keep the points in the output file and measure only the missing ones.
        force: Replace the output file.
        file: File the analysis is saved in, after every group; ``None`` for none.
    """

    name: ClassVar[str] = "ana"

    data: DataSpec = field(metadata=option(metavar="DATA", place="reads"))
    metric: MetricSpec | None = field(
        default=None,
        metadata=option(
            metavar="TEXT",
            place="reads",
            key=Key(
                default="kl",
                text="Metric of the curves; plans are tried by it too if ``prune.strategy`` is ``search``.",
            ),
        ),
    )
    ratios: Sequence[float] = field(
        default=DEFAULT_RATIOS, metadata=option(above=0, below=1, key=Key(default=(0.25, 0.5, 0.75)))
    )
    criterion: str = field(default="obs", metadata=option(metavar="NAME", place="reads"))
    repair: bool = True
    batch_size: int = field(default=64, metadata=option(least=1))
    samples: int | None = field(
        default=None,
        metadata=option(
            least=1,
            key=Key(
                default=512,
                text="Only the first so many samples of the calibration data; also for all that pruning"
                " measures.",
            ),
        ),
    )
    method: Method = field(
        default="measured",
        metadata=option(
            key=Key(note="fast: all curves at once, estimated from one pass through the samples")
        ),
    )
    mode: Mode = field(
        default="exact",
        metadata=option(key=Key(note="adaptive: ratios and samples only where they add information")),
    )
    check: bool = False
    against: Analysis | None = field(default=None, metadata=option(place="reads"))
    confidence: float = field(
        default=0.95,
        metadata=option(
            above=0, below=1, key=Key(example="0.95", note="adaptive: how sure an interval has to be,")
        ),
    )
    precision: float = field(
        default=0.1,
        metadata=option(
            above=0, key=Key(example="0.1", note="and how narrow that of a plan, as a fraction of its drop")
        ),
    )
    workers: int | None = field(default=None, metadata=option(least=1))
    backend: str = field(default="local", metadata=option(metavar="WHERE"))
    cache_bytes: int = field(default=DEFAULT_CACHE_BYTES, metadata=option(least=0))
    resume: bool = False
    force: bool = False
    file: Path | None = field(default=None, metadata=option(flag=""))

    def requires(self, given: PassResult) -> None:
        """The options make sense, the file may be written, and the weights are numbers."""
        if not self.ratios:
            raise UsageError("no ratio is given", "give fractions between 0 and 1, such as 0.5")
        if self.method != "fast" and (self.check or self.against is not None):
            raise UsageError(
                "there is no estimate to be checked", "`check` and `against` go with the method fast"
            )
        check_criterion(self.criterion)
        self._executor.check()
        if self.file is not None:
            check_place(self.file, resume=self.resume, force=self.force)
        super().requires(given)
        check_fixed_tensors(given.model)

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
            more = {"evaluations": self._measured(study, ledger, given)}
        facts = analysis_facts(ledger.analysis)
        for name, curve in facts["groups"].items():
            curve.update(_work_of(study.channels, name))
        for name, figures in facts["blocks"].items():
            figures.update(_work_of(study.channels, name))
        facts |= {"samples": study.dataset.samples, "method": self.method, **more}
        facts["duration_s"] = time.perf_counter() - start
        return PassResult(given.model, False, AnaReport(**facts), ledger.analysis)

    def _measured(self, study: SensitivityRun, ledger: Ledger, given: PassResult) -> int:
        """Measure the groups, then the residual blocks; return the number of points.

        Groups are repaired at the layers that read them. Without a block all layers behind it change, so the
        whole network is repaired, as `prune` does.
        """
        schedules = study.schedules
        blocks = {name for name, schedule in schedules.items() if not isinstance(schedule.group, Group)}
        points = study.finish(ledger, later=blocks) if len(blocks) < len(schedules) else 0
        repaired = blocks if self.repair and math.isfinite(ledger.analysis.baseline) else set()
        for name in [name for name in ledger.missing if name in repaired and schedules[name].steps]:
            value = self._without_block(study, given, name)
            if value is not None:
                ledger.record({name: schedules[name].curve(value, Curve(0, (1.0,), (value,)))})
                points += 1
        return points + study.finish(ledger)

    def _without_block(self, study: SensitivityRun, given: PassResult, name: str) -> float | None:
        """Return the metric of the repaired network without a block; ``None`` where that fails."""
        data = study.dataset
        drop = Prune(plan=PlanFile({}, blocks=(name,)), criterion="l2", allow_inexact=self.allow_inexact)
        repair = Recover(
            original=given.model,
            data=data.take(PRODUCT_SAMPLES),
            samples=PRODUCT_SAMPLES,
            val=data,
            metric=study.question.metric,
            batch_size=self.batch_size,
            seed=self.seed,
            threads=self.threads,
        )
        try:
            value = float(repair(drop(given.model)).facts["score"])
        except OnnxpruneError:
            return None
        return value if math.isfinite(value) else None

    def _compared(self, estimated: Analysis, given: PassResult) -> dict[str, Any]:
        """Return the rank agreement of an estimate with a measured analysis; empty where there is none."""
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
    """Return an analysis, ready for JSON: its curves, and the groups with the largest loss at one half."""
    curves = {name: _curve_facts(analysis, curve) for name, curve in analysis.curves.items()}
    fragile = sorted(curves, key=lambda name: -curves[name]["drop_at_half"])
    return {
        "metric": analysis.metric,
        "higher_is_better": analysis.higher_is_better,
        "baseline": analysis.baseline,
        "groups": curves,
        "blocks": {
            name: {"value": curve.values[-1], "drop": analysis.drop(curve.values[-1])}
            for name, curve in analysis.blocks.items()
        },
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
    """Return the multiply-accumulates that a group or a block has a part in, ready for JSON."""
    macs = cost_of(channels).macs
    factor = next(g.factor for g in channels.prunable if g.name == name)
    own = sum(term.value({}) for term in macs.of(factor))
    return {"macs": round(own), "macs_share": own / max(macs.value(), 1.0)}
