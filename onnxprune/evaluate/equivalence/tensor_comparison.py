"""Two models run side by side, and the differences of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.decisions.channels.dense_interface import Interface
from onnxprune.errors import LimitError, ModelError
from onnxprune.evaluate.equivalence.measure import Leniency, Record
from onnxprune.evaluate.equivalence.noise import ROUNDS, shaken, shaken_feed
from onnxprune.evaluate.equivalence.paths import ComputationGraph
from onnxprune.evaluate.equivalence.subjects import DifferenceError
from onnxprune.evaluate.equivalence.tails import Pair
from onnxprune.evaluate.runnable import shown_by
from onnxprune.ir import Model, every_graph, with_outputs
from onnxprune.ops.spec import spec_of
from onnxprune.runtime import Array, Session


@dataclass(frozen=True)
class ReferenceRun:
    """Inputs that the reference takes.

    Attributes:
        feed: Arrays by input name.
        where: Description of them, in a few words.
        leniency: Numbers that are not compared, since they were drawn so that they may come near infinity.
        apart: The kind of numbers where such runs are judged apart; empty for the others.
    """

    feed: Mapping[str, Array]
    where: str
    leniency: Leniency = "none"
    apart: str = ""


class Comparison:
    """Pairs of tensors of two models, compared run by run.

    Args:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        pairs: Pairs to compare: tensors of the main graphs.
        graphs: The two graphs.
        interface: Elements of the tensors of the reference that the candidate has left.

    Attributes:
        records: Records of the runs so far, by pair.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        candidate: onnx.ModelProto,
        pairs: Iterable[Pair],
        graphs: tuple[ComputationGraph, ComputationGraph],
        interface: Interface,
    ) -> None:
        self.interface = interface
        self._pairs = list(dict.fromkeys(pairs))
        self._reference = with_outputs(reference, [a for a, _ in self._pairs])
        self.session = Session(self._reference, optimize=False)
        self._other = Session(with_outputs(candidate, [b for _, b in self._pairs]), optimize=False)
        self._graphs = graphs
        self._first_changed: tuple[Model, Session] | None = None
        self.records = self.no_records()

    def no_records(self) -> dict[Pair, Record]:
        """Return a record of each pair, of no runs."""
        return {pair: _record(pair, self._graphs) for pair in self._pairs}

    def run(self, run: ReferenceRun, records: Mapping[Pair, Record] | None = None) -> None:
        """Run both models.

        Args:
            run: Inputs that the reference takes.
            records: The records that the run is added to: by default those of the comparison.

        Raises:
            ModelError: The reference does not take these inputs.
            LimitError: One of the two takes too much time or memory.
            DifferenceError: The candidate does not.
        """
        whole = self.session.run(run.feed)
        expected = self.interface.narrowed(whole)
        try:
            actual = self._other.run(self.interface.narrowed(run.feed))
        except LimitError:
            raise
        except ModelError as error:
            message = f"with {run.where} only the first model can be run: {error.message}"
            raise DifferenceError(message) from error
        for pair, record in (self.records if records is None else records).items():
            one, two = expected[pair[0]], actual[pair[1]]
            if shown_by(pair[0]) != pair[0] and np.shape(whole[pair[0]]) == np.shape(two):
                one = whole[pair[0]]  # the candidate has removed nothing of this constant
            record.add(one, two, run.where, run.leniency)

    def over(self, runs: Sequence[ReferenceRun]) -> dict[Pair, Record]:
        """Run both models on inputs that the reference takes, and return the record of each pair."""
        for run in runs:
            self.run(run)
        return self.records

    def noise(
        self,
        runs: Sequence[ReferenceRun],
        is_enough: Callable[[Mapping[Pair, Record]], bool] | None = None,
        *,
        exact: bool = False,
    ) -> dict[Pair, Record]:
        """Run the reference against itself, inputs and weights changed by one last place.

        Args:
            runs: Inputs that the reference takes; those of the fewest elements are run first.
            is_enough: Called after each run with the noise so far, which is returned once it is true.
            exact: Change the weights alone.
        """
        noises = {p: Record(r.name, r.width, r.rounded) for p, r in self.records.items()}
        ordered = sorted(runs, key=lambda run: sum(np.asarray(a).size for a in run.feed.values()))
        for number in range(ROUNDS):
            one, other = self._unchanged(), self._changed(number)
            for run in ordered:
                try:
                    narrowed = self.interface.narrowed
                    expected = narrowed(one.run(run.feed))
                    fed = run.feed if exact else shaken_feed(run.feed, number)
                    moved = narrowed(other.run(fed))
                except ModelError:  # a size that is computed from the weights came out as another
                    continue
                for pair, record in noises.items():
                    if expected[pair[0]].shape == moved[pair[0]].shape:
                        record.add(expected[pair[0]], moved[pair[0]], run.where, run.leniency)
                if is_enough is not None and is_enough(noises):
                    return noises
        return noises

    def _unchanged(self) -> Session:
        """Return the reference."""
        return Session(self._reference, optimize=False) if self._is_random else self.session

    def _changed(self, number: int) -> Session:
        """Return the reference with weights changed by one last place; the first is kept for other runs."""
        kept = self._first_changed
        if number or kept is None:
            changed = shaken(self._reference, number)
            kept = changed, Session(changed.proto, optimize=False)
        if not number and not self._is_random:
            self._first_changed = kept
        return kept[1]

    @property
    def _is_random(self) -> bool:
        """Return true if a session has generators of random numbers, which start anew with another one."""
        nodes = (node for graph in every_graph(self._reference.graph) for node in graph.node)
        return any(spec_of(node).random == "always" for node in nodes)


def _record(pair: Pair, graphs: tuple[ComputationGraph, ComputationGraph]) -> Record:
    one, two = graphs
    widths = [g.widths[n] for g, n in zip(graphs, pair, strict=True) if n in g.widths]
    return Record(
        pair[0],
        width=min(widths, default=4),
        rounded=pair[0] in one.rounded,
        constant=pair[0] not in one.dependent and pair[1] not in two.dependent,
    )
