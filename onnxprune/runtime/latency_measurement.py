"""Latency measurement of several models in turns, for reliable ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import onnx

from onnxprune.errors import UsageError
from onnxprune.runtime.execution import ExecutionConfig
from onnxprune.runtime.session import Feeds, Session
from onnxprune.support.progress import track

_BLOCK_SECONDS = 0.03  # several time slices of the operating system, so that every model loses the same share


@dataclass(frozen=True)
class Latency:
    """The time one run takes, in milliseconds of wall clock; the statistics are over the rounds.

    Attributes:
        median_ms: The figure to compare by.
        min_ms: The fastest run.
        p90_ms: Nine rounds of ten were faster than this.
        mean_ms: The average.
        rounds: Number of rounds.
    """

    median_ms: float
    min_ms: float
    p90_ms: float
    mean_ms: float
    rounds: int


def measure_latency(
    models: Sequence[onnx.ModelProto],
    feeds: Feeds | Sequence[Feeds],
    *,
    rounds: int = 50,
    warmup: int = 5,
    threads: int | None = None,
    execution: ExecutionConfig | None = None,
) -> list[Latency]:
    """Time several models with onnxruntime, side by side; see `time_in_turns`.

    Sessions are optimised as a user's would be; no session's threads keep spinning while another runs.

    Args:
        models: The models.
        feeds: The inputs: one feed for all, or one for each model.
        rounds: Number of turns of each model.
        warmup: Number of untimed runs of each model before.
        threads: Threads a run may use.
        execution: The provider; by default the one in use.

    Returns:
        One result a model, in their order.

    Raises:
        UsageError: There are no rounds, or the number of feeds is not that of the models.
        ModelError: A model cannot be loaded or run.
    """
    each = [feeds] * len(models) if isinstance(feeds, Mapping) else list(feeds)
    if len(each) != len(models):
        raise UsageError(f"{len(models)} models cannot be timed with {len(each)} feeds")
    _check_rounds(rounds, warmup)
    runs = [
        partial(Session(m, threads=threads, spin=True, execution=execution).run, f)
        for m, f in zip(models, each, strict=True)
    ]
    return time_in_turns(runs, rounds=rounds, warmup=warmup)


def time_in_turns(
    runs: Sequence[Callable[[], object]], *, rounds: int = 50, warmup: int = 5
) -> list[Latency]:
    """Time several runs side by side, in turn: A B C, A B C and so on.

    A machine that slows down for a while slows all of them down, so the ratio of the medians holds where
    absolute figures do not. For the same reason a fast model is run in each turn as often as fills 30 ms, and
    the mean counts: single runs would slip through between two interruptions, which hit the slower model.

    Args:
        runs: One run a model.
        rounds: Number of turns of each.
        warmup: Number of untimed runs of each before.

    Returns:
        One result a run, in their order.

    Raises:
        UsageError: There are no rounds.
    """
    _check_rounds(rounds, warmup)
    repeats = [_repeats(run, warmup) for run in runs]
    blocks = [
        [_block_ms(run, n) for run, n in zip(runs, repeats, strict=True)]
        for _ in track(range(rounds), "measure latency")
    ]
    columns = [list(column) for column in zip(*blocks, strict=True)]
    means = [summary([float(np.mean(block)) for block in column]) for column in columns]
    return [
        replace(found, min_ms=min(map(min, column))) for found, column in zip(means, columns, strict=True)
    ]


def _check_rounds(rounds: int, warmup: int) -> None:
    if rounds < 1 or warmup < 0:
        raise UsageError(
            f"{rounds} rounds after {warmup} of warm-up measure nothing", "give at least one round"
        )


def _repeats(run: Callable[[], object], warmup: int) -> int:
    """Warm a model up and return how many runs fill a block."""
    for _ in range(warmup):
        run()
    return max(1, round(1e3 * _BLOCK_SECONDS / min(_block_ms(run, 3))))


def _block_ms(run: Callable[[], object], repeats: int) -> list[float]:
    """Return the time of each of some runs, in milliseconds."""
    marks = [time.perf_counter()]
    for _ in range(repeats):
        run()
        marks.append(time.perf_counter())
    return [1e3 * (end - start) for start, end in pairwise(marks)]


def summary(figures: Sequence[float]) -> Latency:
    """Return the statistics of times, ``[rounds]`` in milliseconds."""
    times = np.asarray(figures, np.float64)
    p90 = float(np.quantile(times, 0.9))
    return Latency(float(np.median(times)), float(times.min()), p90, float(times.mean()), len(times))
