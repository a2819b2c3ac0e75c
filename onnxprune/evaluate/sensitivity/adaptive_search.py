"""Adaptive choice of the measured points of a curve and of the samples for each.

Exact: all of them, on all samples. Adaptive: all points of a group on the first samples; then those at which
the curve bends, on more and more samples, until their intervals are narrow enough for the cost of a plan.
All points are measured on the same samples: a bias of these shifts all points alike, and hardly the choice
between them. The decisions depend on the group alone, so that a run that was interrupted takes the same
decisions again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from onnxprune.decisions.plan import Curve
from onnxprune.evaluate.sensitivity.intervals import half_width, span_of
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup, MetricAccumulator, Scores
from onnxprune.evaluate.sensitivity.variants import Subject, VariantEvaluator

Mode: TypeAlias = Literal["exact", "adaptive"]
FIRST_SAMPLES = 64
"""The fewest samples a point is judged by."""
_GROWTH = 1.5
"""Growth of the number of samples from one look at a point to the next."""
_FLOOR = 0.002
"""Drops below this part of the scale are alike: their differences need not be resolved."""
_OWN_ERROR = 8.0
"""Multiple of the precision that looking at some samples only may add to the error that all leave."""
_STRAIGHT = 0.25
"""A point is left out if a line between its neighbours is off by no more than this part of the precision."""


class Step(NamedTuple):
    """A part of a group to be removed.

    Attributes:
        ratio: Fraction of the group.
        removed: The channels, by group name.
    """

    ratio: float
    removed: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Search:
    """The precision of measured curves.

    Attributes:
        mode: ``exact`` or ``adaptive``.
        confidence: Confidence level of an interval for the value over all samples.
        precision: Largest half width of the interval of a plan's drop, as a fraction of the drop.
        scale: The drop of a network without all removable channels; the smallest resolved drop is a fraction
            of it.
        groups: Number of groups a plan chooses among.
    """

    mode: Mode = "exact"
    confidence: float = 0.95
    precision: float = 0.1
    scale: float = 0.0
    groups: int = 1

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the result, ready for JSON."""
        if self.mode == "exact":
            return {}
        return {"mode": self.mode, "confidence": self.confidence, "precision": self.precision}

    def stages(self, total: int) -> list[int]:
        """Return the cumulative numbers of samples of the stages; the last is the total."""
        if self.mode == "exact":
            return [total]
        count, found = max(FIRST_SAMPLES, total // 16), list[int]()
        while count * _GROWTH < total:
            found.append(count)
            count = round(count * _GROWTH)
        return [*found, total]

    def curve(self, examiner: VariantEvaluator, stop: int, steps: Sequence[Step]) -> Curve:
        """Measure one group.

        Args:
            examiner: Evaluator of the variants.
            stop: The number of the group on the examiner's route.
            steps: Steps of removal, ascending.

        Returns:
            The curve; of an unknown size, and its values not necessarily finite.
        """
        if self.mode == "exact":
            values = examiner.values(stop, [s.removed for s in steps])
            return Curve(0, tuple(s.ratio for s in steps), tuple(values))
        found = self._explore(examiner, Subject(examiner, stop, [s.removed for s in steps]), steps)
        points = [found[k] for k in sorted(found)]
        return Curve(
            size=0,
            ratios=tuple(steps[k].ratio for k in sorted(found)),
            values=tuple(p.value for p in points),
            uncertainties=tuple(p.error for p in points),
            samples=tuple(p.samples for p in points),
        )

    def _explore(
        self, examiner: VariantEvaluator, subject: Subject, steps: Sequence[Step]
    ) -> dict[int, _Point]:
        """Measure all points, and those where the curve bends on more samples, up to the precision."""
        examination = examiner.examination
        tallies = {k: MetricAccumulator(examination.metric) for k in range(len(steps))}
        for stage in range(len(examination.stages)):
            subject.measure(stage, tallies)
            found = {k: self._estimate(examination, t, stage) for k, t in tallies.items()}
            if not stage:
                kept = self._bends([s.ratio for s in steps], [p.drop for p in found.values()])
                tallies, found = {k: tallies[k] for k in kept}, {k: found[k] for k in kept}
            if np.mean([p.error / self._allowed(p) for p in found.values()]) <= 1:
                break
        return found

    def _bends(self, ratios: Sequence[float], drops: Sequence[float]) -> list[int]:
        """Leave out, the least first, the points that lie on the straight line between their neighbours."""
        at, known = np.asarray([0.0, *ratios]), np.asarray([0.0, *drops])

        def bend(a: int, middle: int, b: int) -> float:
            line = np.interp(at[middle], at[[a, b]], known[[a, b]])
            return float(abs(line - known[middle]) / self._weight(known[middle]))

        kept = list(range(len(at)))
        while len(kept) > 2:
            bends = [bend(*three) for three in zip(kept, kept[1:], kept[2:], strict=False)]
            if min(bends) > self.precision * _STRAIGHT:
                break
            kept.pop(1 + int(np.argmin(bends)))
        return [k - 1 for k in kept[1:]]

    def _allowed(self, point: _Point) -> float:
        """Return how wide half the interval of a point may be.

        The drop of a plan is a sum over groups, whose errors add up by their squares.
        """
        alone = max(self._weight(point.drop), _OWN_ERROR * point.own)
        return self.precision * alone * math.sqrt(self.groups)

    def _weight(self, drop: float) -> float:
        return max(abs(drop), _FLOOR * self.scale, sys.float_info.min)

    def _estimate(self, examination: MeasurementSetup, tally: MetricAccumulator, stage: int) -> _Point:
        """Return the estimate of a point after some stages, from differences to the network's own scores."""
        sign = 1.0 if examination.metric.higher_is_better else -1.0
        if stage + 1 == len(examination.stages):
            value = tally.value()
            return _Point(value, 0.0, sign * (examination.value - value), examination.samples)
        before = np.concatenate([s.scores for s in examination.stages[: stage + 1] if s.scores is not None])
        assert tally.scores is not None  # a metric that scores no samples has one stage
        drops: Scores = sign * (before - tally.scores)
        confidence = 1 - (1 - self.confidence) / (len(examination.stages) - 1)  # looked at more than once
        error = half_width(drops, examination.samples, confidence, span_of(before, tally.scores))
        drop, own = float(drops.mean()), error / math.sqrt(examination.samples / len(drops) - 1)
        return _Point(examination.value - sign * drop, error, drop, len(drops), own)


class _Point(NamedTuple):
    """A point of a curve.

    Attributes:
        value: The metric, over all samples as far as is known.
        error: Half the width of its confidence interval.
        drop: Drop of the value from that of the network itself.
        samples: Number of samples it was measured on.
        own: Half the width of the interval that all samples would leave around the mean of their
            distribution.
    """

    value: float
    error: float
    drop: float
    samples: int
    own: float = 0.0
