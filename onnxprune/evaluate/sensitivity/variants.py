"""Many variants of one network measured on the same data: the network without these channels, or those.

The part before the first of those channels is the same for all variants of a group and is computed once.
The rest runs once for every variant in a session of its own: a weight that can be fed is one that onnxruntime
neither folds nor lays out anew, which costs more than building the session does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from onnxprune.analysis.groups.channels import Channels
from onnxprune.evaluate.metrics import BatchOutputs, without_filling
from onnxprune.evaluate.sensitivity.prefix import CachedBatch, CutSequence, Prefix
from onnxprune.evaluate.sensitivity.refit import Refit
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup, MetricAccumulator
from onnxprune.evaluate.sensitivity.suffix import Removed, Suffixes
from onnxprune.runtime import Session
from onnxprune.runtime.batch_axes import batch_name, described


class VariantEvaluator:
    """Measures variants, group after group: fastest in the order of the route.

    Args:
        channels: The network.
        examination: Setup of the measurement.
        route: The names of the groups to be measured, in the order in which they are computed; several that
            are measured together make one stop.
        refit: The layers that are fitted anew where they read removed channels; ``None`` for none.
    """

    def __init__(
        self,
        channels: Channels,
        examination: MeasurementSetup,
        route: Sequence[Collection[str]],
        refit: Refit | None = None,
    ) -> None:
        self.examination = examination
        self._suffixes = Suffixes(channels, refit)
        inputs, outputs = (described(side) for side in (channels.model.inputs, channels.model.outputs))
        self._outputs = {o.name: o.shape for o in outputs}
        self._batch_name = batch_name(inputs, outputs)
        self._route = CutSequence(channels.model, channels.typing.shapes, self._suffixes.cuts(route))
        total = sum(stage.batches for stage in examination.stages)
        self._prefixes = [
            Prefix(self._route, examination, stage, examination.cache_bytes * stage.batches // total)
            for stage in examination.stages
        ]

    def values(self, stop: int, variants: Sequence[Removed]) -> list[float]:
        """Return the metric of variants over all samples; not necessarily finite numbers.

        Args:
            stop: The number of their groups on the route.
            variants: The removed channels of each, by group name.

        Raises:
            DataError: The data or the metric does not fit.
            ModelError: The network fails.
        """
        subject = Subject(self, stop, variants)
        tallies = [MetricAccumulator(self.examination.metric) for _ in variants]
        for stage in range(len(self._prefixes)):
            subject.measure(stage, dict(enumerate(tallies)))
        return [tally.value() for tally in tallies]

    def pieces(self, stage: int, stop: int) -> Iterator[list[CachedBatch]]:
        """Yield the samples of a stage as they come to a stop."""
        return self._prefixes[stage].pieces(stop)

    def session(self, stop: int, removed: Removed) -> Session | None:
        """Return the part behind a stop, ready to run; ``None`` where that is empty."""
        model = self._suffixes.model(self._route.cuts[stop], removed)
        return Session(model.proto, threads=self.examination.threads) if model.nodes else None

    def answer(self, session: Session | None, held: CachedBatch) -> BatchOutputs:
        """Run the part behind a cut; the outputs come in the network's order."""
        made = {**held.tensors}
        if session is not None:
            made |= session.run(held.resident.only(i.name for i in session.inputs))
        found = {name: made[name] for name in self._outputs}
        outputs = without_filling(found, held.size, held.rows, self._outputs, self._batch_name)
        answer = BatchOutputs(outputs, held.targets, {}, held.tokens)
        return answer.against(self.examination.baseline, held.index)


class Subject:
    """Variants that are cut at the same place.

    Args:
        examiner: Evaluator that measures them.
        stop: The number of their groups on the route.
        variants: The removed channels of each.
    """

    def __init__(self, examiner: VariantEvaluator, stop: int, variants: Sequence[Removed]) -> None:
        self._examiner, self._stop, self._variants = examiner, stop, variants
        self._sessions: dict[int, Session | None] = {}

    def measure(self, stage: int, tallies: dict[int, MetricAccumulator]) -> None:
        """Run some variants over the samples of a stage.

        Args:
            stage: The number of the stage.
            tallies: Accumulators of the variants' scores, by the variants' numbers.
        """
        for piece in self._examiner.pieces(stage, self._stop):
            for number, tally in tallies.items():
                session = self._session(number)
                for held in piece:
                    tally.add(self._examiner.answer(session, held))

    def _session(self, number: int) -> Session | None:
        """Return the session of a variant; only that of the last one is kept, as they are large."""
        if number not in self._sessions:
            self._sessions.clear()
            self._sessions[number] = self._examiner.session(self._stop, self._variants[number])
        return self._sessions[number]
