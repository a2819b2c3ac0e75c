"""Whole plans measured on data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.channels.channel_cut import shrunk_inside
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.remaining_statistics import over_remaining
from onnxprune.evaluate.data import Dataset, DataSpec, open_data
from onnxprune.evaluate.metrics import Baseline, Metric, MetricSpec, baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model
from onnxprune.runtime import Array, Session
from onnxprune.scoring.layerwise.batch_statistics import renewed

Removed = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class PlanEvaluator:
    """A network, samples and a metric.

    Attributes:
        channels: The network.
        dataset: The samples.
        metric: The measure.
        batch_size: Samples a batch.
        threads: Threads of the sessions.
    """

    channels: Channels
    dataset: Dataset
    metric: Metric
    batch_size: int = 64
    threads: int | None = None

    @classmethod
    def open(
        cls,
        channels: Channels,
        data: DataSpec,
        metric: MetricSpec,
        *,
        samples: int | None = None,
        batch_size: int = 64,
        threads: int | None = None,
    ) -> PlanEvaluator:
        """Open data for a network.

        Raises:
            DataError: It does not fit.
            UsageError: There is no such metric.
        """
        session = Session(channels.model.proto, threads=threads)
        dataset = open_data(data, session.inputs, session.outputs)
        chosen = dataset if samples is None else dataset.take(samples)
        return cls(channels, chosen, get_metric(metric), session.fixed_batch or batch_size, threads)

    @cached_property
    def baseline(self) -> float:
        """The metric of the network as it is."""
        return self._value(self.channels.model)

    def drop(self, removed: Removed, *, renew: bool = False) -> float:
        """Return how much worse the network is without some channels; negative where it is better.

        Args:
            removed: The removed channels by group name.
            renew: True if the statistics of all BatchNormalizations are estimated anew first.

        Raises:
            DataError: The data or the metric does not fit.
        """
        model = shrunk_inside(self.channels, removed)
        if renew:
            bare = over_remaining(masked(self.channels, removed), self.channels, removed)
            model = renewed(bare, self._inputs(), self.threads)
        return self.drop_of(model)

    def drop_of(self, model: Model) -> float:
        """Return how much worse than the network another model with its interface is, in the metric's unit.

        Raises:
            DataError: The data or the metric does not fit.
        """
        value = self._value(model)
        return self.baseline - value if self.metric.higher_is_better else value - self.baseline

    @cached_property
    def _session(self) -> Session:
        return Session(self.channels.model.proto, threads=self.threads)

    @cached_property
    def _remembered(self) -> Baseline | None:
        if not self.metric.uses_baseline:
            return None
        return baseline_outputs(self._session, self.dataset, batch_size=self.batch_size)

    def _value(self, model: Model) -> float:
        session = Session(model.proto, threads=self.threads)
        return evaluate(
            session, self.dataset, self.metric, batch_size=self.batch_size, baseline=self._remembered
        )

    def _inputs(self) -> Iterator[dict[str, Array]]:
        """Yield the samples; where the file fixes the batch, whole batches only."""
        fixed = self._session.fixed_batch
        for batch in self.dataset.batches(self.batch_size):
            if fixed is None or batch.size == fixed:
                yield batch.inputs
