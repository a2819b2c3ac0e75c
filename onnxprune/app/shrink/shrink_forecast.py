"""Forecast of the steps of `shrink`, from the time of a run and of a few training steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.analysis.groups.channels import Channels
from onnxprune.evaluate.data import Dataset
from onnxprune.ir import Model
from onnxprune.passes.finetune import Finetune
from onnxprune.runtime import Session
from onnxprune.support.progress import task

_BATCH = 32
_ANA_PART = 0.5
"""Cost of a variant of `ana` in runs of the whole network: half of it lies before the cut, on average."""
_BENCH_PART, _BENCHED, _BENCH_RUNS = 0.02, 4, (5, 30)
"""Part of the time for timing; runs of the original that a round takes; bounds of the rounds."""
_TRAINED_BATCHES = 8
MOST_EPOCHS = 60


@dataclass(frozen=True)
class Pace:
    """Measured durations on this machine.

    Attributes:
        run_s: Seconds of a run of the original, by sample.
    """

    run_s: float

    @classmethod
    def measured(cls, model: Model, data: Dataset, threads: int | None) -> Pace:
        """Time a run of the model on its own samples, the faster of two."""
        session = Session(model.proto, threads=threads)
        batch = next(iter(data.batches(session.fixed_batch or _BATCH)))
        rows = session.fixed_batch or batch.size
        times = []
        with task("time the model"):
            for _ in range(2):
                start = time.perf_counter()
                session.run(batch.filled(rows))
                times.append(time.perf_counter() - start)
        return cls(min(times) / rows)

    def ana_s(self, channels: Channels, points: int, samples: int) -> float:
        """Return the seconds of all variants of the groups; gathering moments comes on top."""
        return len(channels.groups) * points * samples * self.run_s * _ANA_PART

    def bench_runs(self, seconds: float) -> int:
        """Return how many rounds of timing take no more than a small part of some seconds."""
        return int(np.clip(_BENCH_PART * seconds / max(_BENCHED * self.run_s, 1e-9), *_BENCH_RUNS))


def epoch_seconds(step: Finetune, model: Model, data: Dataset) -> float:
    """Return the seconds that an epoch takes, by training on a few batches, the first step left out.

    Args:
        step: Options of the training.
        model: The sparse model.
        data: The training data.
    """
    few = data.take(_TRAINED_BATCHES * step.batch_size)
    with task("time training"):
        facts = replace(step, data=few, epochs=1, val=None, patience=None)(model).facts
    steps = -(-data.count() // step.batch_size)
    return float(steps * facts["step_s"])
