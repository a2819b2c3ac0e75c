"""The prefix of a network before each cut, computed once for all cuts.

The tensors at one cut are kept within a memory limit, and those at the next are computed from them. Where
they do not fit, they are made again piece by piece for every group, from the last cut where they did fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnxprune.analysis.shapes import Shapes
from onnxprune.errors import DataError
from onnxprune.evaluate.metrics import Tokens, tokens_of
from onnxprune.evaluate.sensitivity.cut import Cut, extract, stations
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup, SampleStage
from onnxprune.ir import Model
from onnxprune.runtime import Array, ResidentArrays, Session
from onnxprune.runtime.batch_axes import described


@dataclass(frozen=True)
class CachedBatch:
    """A batch on its way through the network.

    Attributes:
        index: Its place among all batches.
        size: Number of its samples.
        rows: Number of samples the network was given, short batches being filled up.
        tensors: Tensors computed so far, by name.
        targets: Targets of the network.
        tokens: Tokens that the network was given.
    """

    index: int
    size: int
    rows: int
    tensors: dict[str, Array]
    targets: dict[str, Array]
    tokens: Tokens

    @cached_property
    def resident(self) -> ResidentArrays:
        """The tensors, as many variants are fed with them."""
        return ResidentArrays(self.tensors)

    @property
    def nbytes(self) -> int:
        """The memory it takes."""
        return sum(a.nbytes for part in (self.tensors, self.targets) for a in part.values())

    def only(self, names: set[str]) -> CachedBatch:
        """Return the batch without other tensors than these."""
        return replace(self, tensors={n: a for n, a in self.tensors.items() if n in names})


class CutSequence:
    """The way through a network, from cut to cut.

    The tensors of the samples at a cut are computed in the same steps from any earlier cut: a run that goes
    on where another stopped finds the same numbers, bit for bit.

    Args:
        model: The network.
        shapes: Its shapes.
        cuts: The cuts, in the order in which they begin.
    """

    def __init__(self, model: Model, shapes: Shapes, cuts: Sequence[Cut]) -> None:
        self.interface = (described(model.inputs), described(model.outputs))
        self.cuts = cuts
        self._model, self._shapes = model, shapes
        inputs = tuple(sorted(i.name for i in model.inputs))
        self._stations = [inputs, *stations(model, shapes, cuts)]

    def legs(self, start: int, end: int, threads: int) -> list[tuple[tuple[str, ...], Session | None]]:
        """Return the tensors after each leg from one cut to another, and the session that computes them.

        Args:
            start: Number of cuts at the beginning of the way.
            end: Number of cuts at its end.
            threads: Threads of the sessions.
        """
        legs: list[tuple[tuple[str, ...], Session | None]] = []
        for known, names in zip(self._stations[start:end], self._stations[start + 1 : end + 1], strict=True):
            missing = [n for n in names if n not in known]
            part = extract(self._model, self._shapes, missing, known) if missing else None
            legs.append((names, Session(part.proto, threads=threads) if part else None))
        return legs


class Prefix:
    """Some samples, and how far they have come.

    Args:
        route: Their way.
        examination: Setup of the measurement.
        stage: The samples.
        cache_bytes: Most that is kept of their tensors.
    """

    def __init__(
        self, route: CutSequence, examination: MeasurementSetup, stage: SampleStage, cache_bytes: int
    ) -> None:
        self._route, self._exam, self._stage = route, examination, stage
        self._limit = cache_bytes
        self._held: list[CachedBatch] = []
        self._behind = 0

    def pieces(self, number: int) -> Iterator[list[CachedBatch]]:
        """Yield the samples as they come to a cut, in pieces; each is freed before the next is made.

        Args:
            number: The number of the cut on the route.

        Raises:
            DataError: The data has changed.
            ModelError: The network fails.
        """
        if self._advance(number + 1):
            yield self._held
            return
        if sum(h.nbytes for h in self._held) > self._limit // 2:
            self._start_over()  # room for the pieces
        at = self._route.cuts[number]
        piece: list[CachedBatch] = []
        free = room = self._limit - sum(h.nbytes for h in self._held)
        for brought in self._brought(number + 1):
            held = brought.only({*at.carried, *at.unreached})
            if piece and held.nbytes > free:
                yield piece
                piece.clear()
                free = room
            piece.append(held)
            free -= held.nbytes
        yield piece

    def _advance(self, behind: int) -> bool:
        """Bring all samples behind so many cuts and keep the tensors there; ``False`` if they do not fit."""
        if behind < self._behind:
            self._start_over()
        if behind == self._behind:
            return True
        total, fresh = 0, not self._held
        for place, held in enumerate(self._brought(behind)):
            total += held.nbytes
            if not place and total * self._stage.batches > self._limit:
                return False
            if total > self._limit:
                self._start_over()
                return False
            if fresh:
                self._held.append(held)
            else:
                self._held[place] = held
        self._behind = behind
        return True

    def _start_over(self) -> None:
        self._held, self._behind = [], 0

    def _brought(self, behind: int) -> Iterator[CachedBatch]:
        """Yield the batches with their tensors behind so many cuts."""
        legs = self._route.legs(self._behind, behind, self._exam.threads)
        for held in self._held if self._behind else self._from_the_data():
            known = held.tensors
            for names, session in legs:
                made = session.run({i.name: known[i.name] for i in session.inputs}) if session else {}
                known = {n: made[n] if n in made else known[n] for n in names}
            yield replace(held, tensors=known)

    def _from_the_data(self) -> Iterator[CachedBatch]:
        """Yield the batches as they enter the network."""
        count = 0
        for batch in self._stage.dataset.batches(self._exam.batch_size):
            if count < self._stage.batches:
                rows = self._exam.batch_size if self._exam.whole_batches else batch.size
                targets = {name: batch.by_sample(name) for name in batch.targets}
                fed = {name: batch.by_sample(name) for name in batch.inputs}
                tokens = tokens_of(fed, *self._route.interface)
                number = self._stage.first + count
                yield CachedBatch(number, batch.size, rows, batch.filled(rows), targets, tokens)
            count += 1
        if count != self._stage.batches:
            raise DataError(
                f"{self._stage.dataset.name} did not give as many batches as when the baseline ran",
                "the data must be the same every time",
            )
