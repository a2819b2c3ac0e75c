"""Every architectural idea: the shrunk part behind a cut computes the outputs of the masked network."""

from __future__ import annotations

from typing import Any

import ideas
import numpy as np
import pytest
from helpers import feeds_for
from ideas_control import CONTROL

from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.analysis.groups.slots import ranked
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.remaining_statistics import over_remaining
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import get_metric
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup, MetricAccumulator, observe
from onnxprune.evaluate.sensitivity.variants import Subject, VariantEvaluator
from onnxprune.ir import Model, check
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import score

IDEAS = ideas.IDEAS | CONTROL


def nothing(outputs: dict[str, Any], targets: dict[str, Any] | None) -> float:
    """A metric for which the outputs may be of any shape."""
    return 0.0


class Collector(MetricAccumulator):
    """Keeps the outputs."""

    def __init__(self) -> None:
        super().__init__(get_metric(nothing))
        self.outputs: list[dict[str, Any]] = []

    def add(self, answer: Any) -> None:
        self.outputs.append(answer.outputs)


def by_importance(model: Model, inexact: bool) -> Channels:
    channels = find_channels(model, allow_inexact=inexact)
    return ranked(channels, {g.name: score(channels, channels.apart(g), "l2") for g in channels.groups})[0]


def parts(channels: Channels, group: Group) -> list[dict[str, list[int]]]:
    """Some of a group's channels, and almost all."""
    del channels
    return [{group.name: list(range(n))} for n in sorted({max(1, group.size // 3), group.size - 1})]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(IDEAS))
def test_against_the_whole_network(name: str) -> None:
    idea = IDEAS[name]
    model = check(Model(idea.build()))
    channels = by_importance(model, idea.inexact)
    feed = feeds_for(model, find_channels(model), 1)[0]
    if not all(array.ndim for array in feed.values()):
        pytest.skip("an input without an axis of samples cannot come from data")
    session = Session(model.proto, threads=1)
    dataset = open_data(feed, session.inputs, session.outputs)
    size = session.fixed_batch or dataset.count()
    exam = observe(session, [dataset], MeasurementSetup(get_metric(nothing), batch_size=size))
    examiner = VariantEvaluator(channels, exam, [[g.name] for g in channels.groups])
    for stop, group in enumerate(channels.groups):
        variants = parts(channels, group)
        found = {k: Collector() for k in range(len(variants))}
        Subject(examiner, stop, variants).measure(0, found)
        for k, variant in enumerate(variants):
            whole = over_remaining(masked(channels, variant), channels, variant)
            wanted = Session(whole.proto, threads=1).run(feed)
            for output, values in wanted.items():
                made = np.concatenate([o[output] for o in found[k].outputs])
                scale = max(float(np.abs(values).max(initial=0)), 1e-30)
                assert np.abs(made.astype(np.float64) - values).max(initial=0) / scale <= 10 * idea.tolerance
