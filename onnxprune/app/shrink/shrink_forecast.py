"""Forecast of the steps of `shrink`, from the time of a run and of a few training steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from onnxprune.analysis.groups.channels import Channels
from onnxprune.evaluate.data import Dataset
from onnxprune.ir import Model
from onnxprune.passes.finetune import Finetune
from onnxprune.runtime import Session
from onnxprune.support.progress import task

_BATCH = 32
_ANA_PART = 0.5
"""Cost of a variant of `ana` in runs of the whole network: half of it lies before the cut, on average."""
_SWEEP = 6.0
"""Cost of a repair in runs of the whole network: moments, errors before and after, repeated parts."""
_TRAINED_BATCHES = 6
_MOST_EPOCHS = 60


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
        """Return the seconds that measuring all groups takes."""
        return len(channels.groups) * points * samples * self.run_s * _ANA_PART + self.repair_s(samples)

    def repair_s(self, samples: int) -> float:
        """Return the seconds that repairing takes."""
        return _SWEEP * samples * self.run_s


def epochs_within(step: Finetune, model: Model, data: Dataset, seconds: float) -> int:
    """Return how many epochs there is time for, by training on a few batches.

    Args:
        step: Options of the training.
        model: The sparse model.
        data: The training data.
        seconds: The time.
    """
    few = data.take(_TRAINED_BATCHES * step.batch_size)
    with task("time training"):
        facts = replace(step, data=few, epochs=1, val=None, patience=None)(model).facts
    per_step = facts["training_s"] / max(facts["steps"], 1)
    steps = -(-data.count() // step.batch_size)
    return int(min(_MOST_EPOCHS, seconds / max(steps * per_step, 1e-9)))
