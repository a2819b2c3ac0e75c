"""Many variants of one network measured on the same data: the network without these channels, or those.

A variant is the network with some of its weights zero. What lies before the first of those weights is the
same for all variants and is run once; what it hands over is kept within a memory limit, a piece of the data
at a time. The rest runs once for every variant in a session of its own: a weight that can be fed is one that
onnxruntime neither folds nor lays out anew, which costs more than building the session does.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.channels import Channels
from onnxprune.data import Batch, Dataset
from onnxprune.errors import DataError
from onnxprune.graph import Model
from onnxprune.masks import Mask, keep_masks
from onnxprune.metrics import Answer, Baseline, MeanMetric, Metric
from onnxprune.runtime import Array, Session
from onnxprune.split import Split, split

DEFAULT_CACHE_BYTES = 1 << 30

Removed = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Examination:
    """What variants are measured by.

    Attributes:
        dataset: The samples.
        metric: The measure.
        baseline: What the network said before, if the metric compares with that.
        batch_size: Samples a batch.
        whole_batches: Whether the network takes no smaller batch: a short one is filled up.
        threads: Threads of a session.
        cache_bytes: Most that is kept of the tensors between the halves of the network.
    """

    dataset: Dataset
    metric: Metric
    baseline: Baseline | None = None
    batch_size: int = 64
    whole_batches: bool = False
    threads: int = 1
    cache_bytes: int = DEFAULT_CACHE_BYTES


def measure(channels: Channels, examination: Examination, variants: Sequence[Removed]) -> list[float]:
    """Return the metric of variants of a network.

    Args:
        channels: The network.
        examination: What they are measured by.
        variants: The removed channels of each, by group name.

    Returns:
        One value a variant; not necessarily a finite one.

    Raises:
        DataError: The data or the metric does not fit.
        ModelError: The network fails.
    """
    masks = [keep_masks(channels, removed) for removed in variants]
    touched = set[str]().union(*masks)
    halves = split(channels.model, channels.typing.shapes, touched)
    outputs = [o.name for o in channels.model.outputs]
    tallies = [_Tally(examination.metric) for _ in variants]
    for piece in _pieces(halves, examination):
        for tally, mask in zip(tallies, masks, strict=True):
            _set_weights(halves.after, channels.model, touched, mask)
            session = Session(halves.after.proto, threads=examination.threads) if halves.after.nodes else None
            for held in piece:
                tally.add(held.answer(session, outputs, examination.baseline))
    return [tally.value() for tally in tallies]


def usable_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Held:
    """A batch as it enters the second half.

    Attributes:
        index: Its place in the data set.
        size: How many samples it has.
        rows: How many the network was given, short batches being filled up.
        feeds: What the second half reads.
        unreached: Outputs that no variant changes.
        targets: What the network should say.
    """

    index: int
    size: int
    rows: int
    feeds: dict[str, Array]
    unreached: dict[str, Array]
    targets: dict[str, Array]

    @property
    def nbytes(self) -> int:
        """The memory it takes."""
        return sum(a.nbytes for part in (self.feeds, self.unreached, self.targets) for a in part.values())

    def answer(self, session: Session | None, outputs: Sequence[str], baseline: Baseline | None) -> Answer:
        """Run the second half, if there is one; the outputs come in the network's order."""
        made = {**self.unreached, **(session.run(self.feeds) if session else {})}
        remembered = baseline.remembered(self.index) if baseline else {}
        return Answer({name: self._trimmed(made[name]) for name in outputs}, self.targets, remembered)

    def _trimmed(self, output: Array) -> Array:
        return output[: self.size] if output.shape[:1] == (self.rows,) else output


class _Tally:
    """A metric over answers that come one at a time."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._total, self._count = 0.0, 0
        self._answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        """Score an answer, or keep it for a metric that wants to see them all."""
        if isinstance(self._metric, MeanMetric):
            scores = self._metric.scores(answer)
            self._total, self._count = self._total + float(scores.sum()), self._count + len(scores)
        else:
            self._answers.append(answer)

    def value(self) -> float:
        """Return the metric over everything added."""
        return self._total / self._count if self._count else self._metric.value(self._answers)


def _pieces(halves: Split, examination: Examination) -> Iterator[list[_Held]]:
    """Yield the data in pieces within the memory limit; a piece is emptied when the next is asked for."""
    before = Session(halves.before.proto, threads=examination.threads) if halves.before else None
    piece: list[_Held] = []
    free = examination.cache_bytes
    for index, batch in enumerate(examination.dataset.batches(examination.batch_size)):
        if examination.baseline and index >= len(examination.baseline):
            raise DataError(
                f"{examination.dataset.name} did not give as many batches as when the baseline ran",
                "the data must be the same every time",
            )
        held = _enter(halves, before, index, batch, examination)
        if piece and held.nbytes > free:
            yield piece
            piece.clear()
            free = examination.cache_bytes
        piece.append(held)
        free -= held.nbytes
    yield piece


def _enter(
    halves: Split, before: Session | None, index: int, batch: Batch, examination: Examination
) -> _Held:
    """Run the first half."""
    rows, inputs = batch.size, batch.inputs
    if examination.whole_batches and rows < examination.batch_size:
        rows = examination.batch_size
        chosen = np.minimum(np.arange(rows), batch.size - 1)
        inputs = {name: array[chosen] for name, array in inputs.items()}
    known = {**inputs, **(before.run(inputs) if before else {})}
    feeds, unreached = ({n: known[n] for n in names} for names in (halves.carried, halves.unreached))
    return _Held(index, batch.size, rows, feeds, unreached, batch.targets)


def _set_weights(half: Model, model: Model, touched: Collection[str], masks: Mapping[str, Mask]) -> None:
    """Give the second half the weights of a variant: those of the network, zero where a mask says so."""
    for name in half.constants.keys() & touched:
        values = model.array(name)
        half.set_array(name, np.where(masks.get(name, True), values, np.zeros((), values.dtype)))
