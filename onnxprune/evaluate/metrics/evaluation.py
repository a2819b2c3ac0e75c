"""Models measured by metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import Dataset
from onnxprune.evaluate.metrics.baseline import Baseline
from onnxprune.evaluate.metrics.metric import BatchOutputs, MeanMetric, Metric, Outputs, Scores
from onnxprune.evaluate.metrics.tokens import tokens_of
from onnxprune.runtime import Array, Feeds, Session
from onnxprune.runtime.batch_axes import Declared, made_axis


def evaluate(
    session: Session,
    dataset: Dataset,
    metric: Metric,
    *,
    batch_size: int = 64,
    baseline: Baseline | None = None,
    overrides: Feeds | None = None,
) -> float:
    """Measure a model.

    A model that fixes its batch gets batches of that size; a last one that is short is filled up with copies
    of its last sample, whose outputs are dropped. So every sample counts once for any batch size.

    Args:
        session: The model.
        dataset: The samples.
        metric: The measure.
        batch_size: Samples a batch, where the model does not fix it.
        baseline: Result of `baseline_outputs` for the same data and batch size, if the metric needs it.
        overrides: Weights to be fed, for a `WeightSession`.

    Returns:
        The metric, a finite number.

    Raises:
        DataError: The data does not fit the model or lacks arrays of the metric, or the metric is NaN.
        UsageError: The metric compares with the baseline, whose outputs are not given.
        ModelError: The model fails.
    """
    if metric.uses_baseline and baseline is None:
        raise UsageError(
            f"{metric.name} compares with the baseline, whose outputs are not given",
            "`baseline_outputs` makes them",
        )
    used = baseline if metric.uses_baseline else None
    value = metric.value(answers(session, dataset, batch_size, used, overrides or {}))
    if not np.isfinite(value):
        raise DataError(
            f"{metric.name} is {value} for {session.name} on {dataset.name}",
            "look for NaN or infinity among the model's outputs, or use another metric",
        )
    return value


def sample_scores(
    session: Session,
    dataset: Dataset,
    metric: Metric,
    *,
    batch_size: int = 64,
    baseline: Baseline | None = None,
) -> Scores | None:
    """Measure a model sample by sample.

    Args:
        session: As for `evaluate`, like all that follow.
        dataset: The samples.
        metric: The measure.
        batch_size: Samples a batch.
        baseline: Outputs that the metric compares with.

    Returns:
        One score a sample, ``[samples]``; ``None`` for a metric that judges all samples together.
    """
    if not isinstance(metric, MeanMetric):
        return None
    used = baseline if metric.uses_baseline else None
    found = [metric.scores(answer) for answer in answers(session, dataset, batch_size, used)]
    return np.concatenate(found)


def baseline_outputs(session: Session, dataset: Dataset, *, batch_size: int = 64) -> Baseline:
    """Run the baseline once, for the metrics that compare with it.

    Args:
        session: The baseline.
        dataset: The samples.
        batch_size: The batch size of the evaluations to come.

    Returns:
        All its outputs, held in memory.

    Raises:
        DataError: As for `evaluate`.
        ModelError: As for `evaluate`.
    """
    return Baseline([answer.outputs for answer in answers(session, dataset, batch_size)])


def answers(
    session: Session,
    dataset: Dataset,
    batch_size: int,
    baseline: Baseline | None = None,
    overrides: Feeds | None = None,
) -> Iterator[BatchOutputs]:
    """Run a model over the data, a batch at a time; the arguments and errors are those of `evaluate`."""
    size = session.fixed_batch or batch_size
    count = 0
    for index, batch in enumerate(dataset.batches(size)):
        count = index + 1
        if baseline is not None and count > len(baseline):
            break
        rows = session.fixed_batch or batch.size
        made = session.run({**batch.filled(rows), **(overrides or {})})
        declared = {o.name: o.shape for o in session.outputs}
        found = without_filling(made, batch.size, rows, declared, session.batch_name)
        fed = {name: batch.by_sample(name) for name in batch.inputs}
        tokens = tokens_of(fed, session.inputs, session.outputs)
        targets = {name: batch.by_sample(name) for name in batch.targets}
        yield BatchOutputs(found, targets, {}, tokens).against(baseline, index)
    if baseline is not None and count != len(baseline):
        raise DataError(
            f"{dataset.name} did not give as many batches as when the baseline ran",
            "the data must be the same every time, and so must the batch size",
        )


def without_filling(
    outputs: Outputs,
    size: int,
    rows: int,
    declared: Mapping[str, Declared] | None = None,
    batch_name: str | None = None,
) -> dict[str, Array]:
    """Put the samples on the first axis, and drop the outputs of the copies that filled up a batch.

    Args:
        outputs: The model's outputs.
        size: The samples of the batch.
        rows: The samples the model was given.
        declared: Shapes of the outputs that the file declares, by name.
        batch_name: The name of the axis that counts samples.
    """
    found = {}
    for name, array in outputs.items():
        axis = made_axis((declared or {}).get(name, ()), array.shape, rows, batch_name)
        found[name] = array if axis is None else np.moveaxis(array, axis, 0)[:size]
    return found
