"""Forecast of the steps of `shrink`, from the time of a run and of a few training steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

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
_ROUND_S = 0.06
"""Least seconds of a round, in which each of two models runs as often as fills a block."""
_PLAN_PART, _PLANNED, _PLAN_SAMPLES = 0.3, 60, (256, 512)
"""Part of the time for the first plan; runs that a sample takes in it; bounds of its samples."""
PLAN_LIMIT, REPAIR_LIMIT = 0.6, 0.85
"""Parts of the time after which a plan on samples, and a repaired plan by weights, are given up."""
_PLAN_AIM, _REPAIR_AIM = 0.4, 0.7
"""Parts of the time that their forecasts may be: a machine may become slower, and a plan given up is lost."""
_REPAIRED, LEAST_SAMPLES = 30, 32
"""Runs that a sample takes in a repair; the fewest samples that a plan or a repair looks at."""
_JUDGE_PART, _JUDGINGS, _LEAST_JUDGED = 0.2, 6, 128
"""Part of the time for judging; how often that happens without training; the fewest samples that judge."""
_END_RUNS, _END_S = 300, 3.0
"""Cost of the proof and the timing: runs of the original, and seconds beside them."""
Way: TypeAlias = Literal["samples", "repaired", "weights"]
"""Way to plan: samples rank the channels and repair; weights rank, samples repair; weights alone."""
_TRAINED_BATCHES = 8
_RUNS, _LEAST_S, _ENOUGH_S, _MOST_LOAD = 5, 0.3, 5.0, 16.0
"""The fewest runs that are timed, and their least seconds: within less, one wait for a processor looks like a
high load. Seconds after which two runs are enough; the greatest load that is believed."""
MOST_EPOCHS = 60


@dataclass(frozen=True)
class Pace:
    """Measured durations on this machine.

    Attributes:
        run_s: Seconds of a run of the original on an idle machine, by sample.
        load: Wall time of this process by its processor time, 1 on an idle machine.
    """

    run_s: float
    load: float = 1.0

    @classmethod
    def measured(cls, model: Model, data: Dataset, threads: int | None) -> Pace:
        """Time a run of the model on its own samples, the fastest of some.

        A run that waits for a processor counts by its processor time; with several threads that is the
        greater one, and the wall time counts.
        """
        session = Session(model.proto, threads=threads)
        batch = next(iter(data.batches(session.fixed_batch or _BATCH)))
        rows = session.fixed_batch or batch.size
        times, total = list[tuple[float, float]](), 0.0
        begin = time.perf_counter() - time.process_time()
        with task("time the model"):
            while (len(times) < _RUNS or total < _LEAST_S) and (len(times) < 2 or total <= _ENOUGH_S):
                start, own = time.perf_counter(), time.process_time()
                session.run(batch.filled(rows))
                times.append((time.perf_counter() - start, time.process_time() - own))
                total += times[-1][0]
        if not session.execution.is_cpu:  # the processor waits for a device
            return cls(min(wall for wall, _ in times) / rows)
        waited = time.perf_counter() - time.process_time() - begin
        load = 1 + max(0.0, waited) / max(total - waited, 1e-3)
        return cls(min(map(min, times)) / rows, min(load, _MOST_LOAD))

    @property
    def loaded_s(self) -> float:
        """Seconds of a run under the load of this machine, by sample."""
        return self.load * self.run_s

    def ana_s(self, channels: Channels, points: int, samples: int) -> float:
        """Return the seconds of all variants of the groups; gathering moments comes on top."""
        return len(channels.groups) * points * samples * self.loaded_s * _ANA_PART

    def bench_runs(self, seconds: float) -> int:
        """Return how many rounds of timing take no more than a small part of some seconds."""
        each = self.load * max(_BENCHED * self.run_s, _ROUND_S)
        return int(np.clip(_BENCH_PART * seconds / each, *_BENCH_RUNS))

    def plan_samples(self, seconds: float) -> int:
        """Return how many samples a plan and its repair may look at for a small part of some seconds.

        Where that is too few, more of the time is taken; where that is too little, fewer samples.
        """
        each = _PLANNED * max(self.loaded_s, 1e-9)
        wanted = int(np.clip(_PLAN_PART * seconds / each, *_PLAN_SAMPLES))
        return max(LEAST_SAMPLES, min(wanted, int(_PLAN_AIM * seconds / each)))

    def way(self, samples: int, seconds: float) -> Way:
        """Return the best way to plan that is expected to fit into some seconds."""
        if _PLANNED * samples * self.loaded_s <= _PLAN_AIM * seconds:
            return "samples"
        fits = min(samples, LEAST_SAMPLES) * self.repair_s() <= _REPAIR_AIM * seconds
        return "repaired" if fits else "weights"

    def repair_s(self) -> float:
        """Return the seconds that a sample takes in a repair."""
        return _REPAIRED * self.loaded_s

    def judged(self, seconds: float) -> int:
        """Return how many samples may judge a result for a small part of some seconds."""
        each = _JUDGINGS * max(self.loaded_s, 1e-9)
        return max(_LEAST_JUDGED, int(_JUDGE_PART * seconds / each))

    def end_s(self) -> float:
        """Return the seconds of the proof and the timing of a result."""
        return self.load * (_END_RUNS * self.run_s + _END_S)


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
