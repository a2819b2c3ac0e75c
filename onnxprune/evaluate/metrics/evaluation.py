"""Metrics by name, and models measured by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import Dataset
from onnxprune.evaluate.metrics import targets
from onnxprune.evaluate.metrics.baseline import Baseline, agreement, cosine, divergence
from onnxprune.evaluate.metrics.metric import (
    BatchOutputs,
    MeanMetric,
    Metric,
    Outputs,
    Scores,
    UserFunction,
    UserMetric,
)
from onnxprune.runtime import Array, Feeds, Session
from onnxprune.runtime.batch_axes import Declared, made_axis
from onnxprune.support.callables import is_reference, load_callable

MetricSpec: TypeAlias = str | Metric | UserFunction

_TOP = {"top1": 1, "top5": 5}
_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        MeanMetric("mse", False, False, partial(targets.error, np.square, "mse")),
        MeanMetric("mae", False, False, partial(targets.error, np.abs, "mae")),
        MeanMetric("kl", False, True, divergence),
        MeanMetric("agreement", True, True, agreement),
        MeanMetric("cosine", True, True, cosine),
    )
}


def get_metric(spec: MetricSpec) -> Metric:
    """Return a metric by its name.

    Args:
        spec: ``top1``, ``top5``, ``mse``, ``mae``, ``kl``, ``agreement`` or ``cosine``; ``top1@OUTPUT`` (or
            ``top5@OUTPUT``) to judge an output other than the first; ``module:callable`` or a callable, see
            `UserMetric`; or a metric, which is returned as it is.

    Returns:
        The metric.

    Raises:
        UsageError: There is no such metric.
        DataError: The module or its callable is not there.
    """
    if isinstance(spec, Metric):
        return spec
    if not isinstance(spec, str):
        return _user_metric(getattr(spec, "__name__", type(spec).__name__), spec)
    if is_reference(spec):
        return _user_metric(spec, load_callable(spec))
    name, _, output = spec.partition("@")
    if name in _TOP and (output or name == spec):
        return MeanMetric(spec, True, False, partial(targets.top, _TOP[name], output))
    if spec not in _METRICS:
        known = ", ".join([*_TOP, *_METRICS])
        raise UsageError(f"there is no metric {spec!r}", f"choose one of {known}, or module:callable")
    return _METRICS[spec]


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
    of its last sample, whose outputs are dropped. So every sample counts once, whatever the batch.

    Args:
        session: The model.
        dataset: The samples.
        metric: The measure.
        batch_size: Samples a batch, where the model does not fix it.
        baseline: Result of `baseline_outputs` for the same data and batch size, if the metric asks.
        overrides: Weights to be fed, for a `WeightSession`.

    Returns:
        The metric, a finite number.

    Raises:
        DataError: The data does not fit the model, lacks what the metric needs, or the metric is NaN.
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
        remembered = baseline.remembered(index) if baseline is not None else {}
        declared = {o.name: o.shape for o in session.outputs}
        found = without_filling(made, batch.size, rows, declared, session.batch_name)
        yield BatchOutputs(found, {name: batch.by_sample(name) for name in batch.targets}, remembered)
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
    """Put the samples on the first axis, and drop what a model said of the copies a batch was filled up with.

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


def _user_metric(name: str, function: UserFunction) -> UserMetric:
    return UserMetric(name, function, bool(getattr(function, "higher_is_better", True)))
