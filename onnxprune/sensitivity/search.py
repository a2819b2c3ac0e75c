"""Which points of a curve are measured, and on how many samples.

Exact: all of them, on all samples. Adaptive: where the curve bends, and each point on more and more samples
until its interval is narrow enough to tell what removing costs. Both depend on nothing but the group itself,
so that a run that was interrupted takes the same decisions again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.plan import Curve
from onnxprune.sensitivity.examine import Examiner, Subject
from onnxprune.sensitivity.intervals import half_width, span_of
from onnxprune.sensitivity.samples import Examination, Scores, Tally

MODES = ("exact", "adaptive")
FIRST_SAMPLES = 64
"""The fewest samples a point is judged by."""
_GROWTH = 1.5
"""From one look at a point to the next the samples become so many times as many."""
_HOPELESS = 0.1
"""Drops above this part of the scale are alike: no plan would choose them."""
_FLOOR = 0.002
"""Drops below this part of the scale are alike: they need not be told apart."""
_OWN_ERROR = 1.5
"""So many times the error that all samples leave may be added by looking at some of them only."""


class Step(NamedTuple):
    """A part of a group to be removed.

    Attributes:
        ratio: How large a part.
        removed: The channels, by group name.
    """

    ratio: float
    removed: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Search:
    """How thoroughly curves are measured.

    Attributes:
        mode: ``exact`` or ``adaptive``.
        confidence: How sure an interval is to hold the value over all samples.
        precision: How wide half an interval may be, as a fraction of the drop it belongs to.
        scale: The drop of a network that has lost everything it may lose: what is no longer worth telling
            apart is a part of this.
    """

    mode: str = "exact"
    confidence: float = 0.95
    precision: float = 0.2
    scale: float = 0.0

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: As said.
        """
        if self.mode not in MODES:
            raise UsageError(f"there is no mode '{self.mode}'", f"choose from: {', '.join(MODES)}")
        for name, value in (("confidence", self.confidence), ("precision", self.precision)):
            if not 0 < value < 1:
                raise UsageError(f"a {name} of {value:g} makes no sense", "give a fraction between 0 and 1")

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, ready for JSON."""
        if self.mode == "exact":
            return {}
        return {"mode": self.mode, "confidence": self.confidence, "precision": self.precision}

    def stages(self, total: int) -> list[int]:
        """Return how many samples are looked at first, and by then, and by then; all of them at last."""
        if self.mode == "exact":
            return [total]
        count, found = max(FIRST_SAMPLES, total // 16), list[int]()
        while count * _GROWTH < total:
            found.append(count)
            count = round(count * _GROWTH)
        return [*found, total]

    def curve(self, examiner: Examiner, stop: int, steps: Sequence[Step]) -> Curve:
        """Measure one group.

        Args:
            examiner: Who measures.
            stop: The number of the group on the examiner's route.
            steps: What is taken from the group, ascending.

        Returns:
            The curve; of an unknown size, and its values not necessarily finite.
        """
        if self.mode == "exact":
            values = examiner.values(stop, [s.removed for s in steps])
            return Curve(0, tuple(s.ratio for s in steps), tuple(values))
        subject = Subject(examiner, stop, [s.removed for s in steps])
        found = self._explore(
            [s.ratio for s in steps], lambda k: self._judge(examiner.examination, subject, k)
        )
        points = [found[k] for k in sorted(found)]
        return Curve(
            size=0,
            ratios=tuple(steps[k].ratio for k in sorted(found)),
            values=tuple(p.value for p in points),
            uncertainties=tuple(p.error for p in points),
            samples=tuple(p.samples for p in points),
        )

    def _explore(self, ratios: Sequence[float], judge: Callable[[int], _Point]) -> dict[int, _Point]:
        """Measure the last point, and then the middle of every stretch on which the curve may bend."""
        last = len(ratios) - 1
        found = {last: judge(last)}
        drops, at = {-1: 0.0, last: found[last].drop}, [0.0, *ratios]
        stretches = [(-1, last)]
        while stretches:
            a, b = stretches.pop()
            if b - a < 2 or self._is_settled(drops[a], drops[b]):
                continue
            middle = (a + b) // 2
            found[middle] = judge(middle)
            drops[middle] = found[middle].drop
            between = np.interp(at[middle + 1], [at[a + 1], at[b + 1]], [drops[a], drops[b]])
            straight = abs(between - drops[middle]) <= self._tolerance(drops[middle])
            if not straight or (a, b) == (-1, last):
                stretches += [(middle, b), (a, middle)]
        return found

    def _is_settled(self, left: float, right: float) -> bool:
        """Whether no plan would tell the points between two drops apart."""
        return left >= _HOPELESS * self.scale or abs(right - left) <= self._tolerance(right)

    def _tolerance(self, drop: float) -> float:
        return self.precision * max(abs(drop), _FLOOR * self.scale)

    def _judge(self, examination: Examination, subject: Subject, number: int) -> _Point:
        """Measure a point on more and more samples until it is clear."""
        tally, stages = Tally(examination.metric), examination.stages
        for stage in range(len(stages)):
            subject.measure(stage, {number: tally})
            point = self._estimate(examination, tally, stage)
            if point.error <= max(self._tolerance(point.drop), _OWN_ERROR * point.own):
                break
            if point.drop - point.error >= _HOPELESS * self.scale:
                break
        return point

    def _estimate(self, examination: Examination, tally: Tally, stage: int) -> _Point:
        """Say what is known of a point after some stages; paired with what the network itself scores."""
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
        drop: How much worse that is than the network itself.
        samples: How many samples were looked at.
        own: Half the width of the interval that all samples would leave around the mean of what they are
            drawn from.
    """

    value: float
    error: float
    drop: float
    samples: int
    own: float = 0.0
