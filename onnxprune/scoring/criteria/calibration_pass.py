"""Calibration: statistics for the criteria, gathered from samples."""

from __future__ import annotations

from collections.abc import Collection

from onnxprune.analysis.groups.channels import Channels
from onnxprune.evaluate.data import Dataset
from onnxprune.scoring.criteria.activations import observe
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.criteria import check_criterion
from onnxprune.scoring.criteria.eliminations import operate
from onnxprune.scoring.criteria.gradients import slopes_of
from onnxprune.train.gradients import GradientLoss, gradients_of

_LABELS = "labels"
_GRADIENT_BATCH = 8
"""Samples a gradient; few, as slopes of many samples cancel and hide the loss of single ones."""

PRODUCT_SAMPLES = 512
"""Number of samples for moments; all of them stay in memory during the pass over the layers."""


def gather(
    channels: Channels,
    criterion: str,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    threads: int | None = None,
    seed: int = 0,
    names: Collection[str] | None = None,
) -> CalibrationStatistics | None:
    """Gather the statistics of a criterion in one pass through the samples.

    The gradient is that of the loss the samples allow: cross-entropy with labels, mean squared error with
    target values, and without either the cross-entropy of classes drawn from the model's own answers.

    Args:
        channels: The network.
        criterion: Criterion that ranks the channels.
        dataset: The samples.
        batch_size: Samples a run.
        threads: Threads to compute with.
        seed: Seed of the classes that are drawn.
        names: The groups that are asked for; by default all. Those of others may be left out.

    Returns:
        Statistics of the samples; ``None`` for criteria of the weights alone.

    Raises:
        DataError: The samples do not fit.
        TrainingError: The network has no gradient.
    """
    needs = check_criterion(criterion).needs
    if needs == "data":
        return observe(channels, (b.inputs for b in dataset.batches(batch_size)), threads)
    if needs == "products":
        few = dataset.take(PRODUCT_SAMPLES)
        return operate(channels, (b.inputs for b in few.batches(batch_size)), threads, seed, names=names)
    if needs != "gradients":
        return None
    loss = _loss(dataset)
    tensors = {p.tensor for g in channels.groups for p in g.places if p.weight}
    found = gradients_of(
        channels.model.proto,
        dataset,
        loss,
        batch_size=min(batch_size, _GRADIENT_BATCH),
        seed=seed,
        names=tensors,
        threads=threads,
    )
    return slopes_of(channels, found)


def _loss(dataset: Dataset) -> GradientLoss:
    targets = next(dataset.take(1).batches(1)).targets
    if _LABELS in targets:
        return "cross-entropy"
    return "mse" if targets else "sampled-labels"
