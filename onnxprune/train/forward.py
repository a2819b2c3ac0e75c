"""Check of the training copy against the model, before any training.

Both run through the onnxruntime the user has, unoptimised, on the first samples of the training data.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxprune.errors import ModelError, TrainingError
from onnxprune.runtime import Session
from onnxprune.train.batch_samples import batch_size, input_axes, output_axes, taken
from onnxprune.train.dialect import declared_batch
from onnxprune.train.wire import Array

TOLERANCE = (
    1e-3  # of the largest magnitude; other spellings of an operator round differently, layer after layer
)
HALF_PRECISION_TOLERANCE = 2e-2
SAMPLES = 4


def check_forward(
    model: onnx.ModelProto, training_copy: onnx.ModelProto, sample: Mapping[str, Array]
) -> dict[str, Array]:
    """Compare the copy with the model on a few samples.

    Args:
        model: The user's model.
        training_copy: Copy that will be trained, with the same outputs.
        sample: One batch of inputs in the model's own types.

    Returns:
        The copy's outputs.

    Raises:
        TrainingError: They differ; the message names the first node whose result does.
    """
    few = _few(model, sample, declared_batch(model))
    floats = {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in few.items()
    }
    try:
        copied = Session(training_copy, optimize=False).run(floats)
    except ModelError as error:
        if _runs_in_its_own_batch(model, training_copy, floats):
            raise _batch_is_merged(model, error) from error
        raise TrainingError(f"the training copy of this model does not run: {error.message}") from error
    expected = _run_in_batches(model, few, [output.name for output in model.graph.output])
    for name, reference in expected.items():
        if _differ(model, reference, copied[name]):
            raise TrainingError(_first_difference(model, training_copy, few, floats))
    return copied


def _runs_in_its_own_batch(
    model: onnx.ModelProto, training_copy: onnx.ModelProto, floats: Mapping[str, Array]
) -> bool:
    """Return whether the copy runs on as many samples as the file fixes."""
    batch = declared_batch(model)
    if batch is None:
        return False
    try:
        Session(training_copy, optimize=False).run(taken(floats, input_axes(model, floats), np.arange(batch)))
    except ModelError:
        return False
    return True


def _batch_is_merged(model: onnx.ModelProto, error: ModelError) -> TrainingError:
    """Return the error for a network with its number of samples in more than the first axis of tensors."""
    where = f"node '{error.node}'" if error.node else "a node"
    return TrainingError(
        f"the file fixes a batch of {declared_batch(model)} and {where} lays its samples along another axis,"
        " so the model cannot be trained on batches of other sizes",
        "export the model with an open batch axis, or with a batch of 1",
    )


def _few(model: onnx.ModelProto, sample: Mapping[str, Array], batch: int | None) -> dict[str, Array]:
    """Take some samples, or as many whole batches of a fixed size, repeating samples if need be."""
    axes = input_axes(model, sample)
    available = batch_size(sample, axes)
    return taken(sample, axes, np.arange(checked_samples(available, batch)) % available)


def checked_samples(available: int, batch: int | None) -> int:
    """Return the number of samples that both models are run with.

    Args:
        available: Samples that there are.
        batch: The batch size that the model insists on; ``None`` where it is free.
    """
    return min(SAMPLES, available) if batch is None else batch * -(-SAMPLES // batch)


def _run_in_batches(
    model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Iterable[str]
) -> dict[str, Array]:
    """Run a model in batches of the size it insists on, if it does."""
    session, batch = Session(_with_outputs(model, outputs), optimize=False), declared_batch(model)
    if batch is None:
        return session.run(feeds)
    axes = input_axes(model, feeds)
    total = batch_size(feeds, axes)
    starts = range(0, total, batch)
    parts = [session.run(taken(feeds, axes, np.arange(at, min(at + batch, total)))) for at in starts]
    made = output_axes(model, parts[0], batch)
    return {name: np.concatenate([part[name] for part in parts], made[name]) for name in parts[0]}


def _with_outputs(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    probed = copy.deepcopy(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return probed


def _differ(model: onnx.ModelProto, reference: Any, got: Any) -> bool:
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return not _error(reference, got) <= (HALF_PRECISION_TOLERANCE if half else TOLERANCE)


def _error(reference: Any, got: Any) -> float:
    """Return the largest difference relative to the largest magnitude; 0 for results that are not floats."""
    if not isinstance(reference, np.ndarray) or reference.dtype.kind != "f":
        return 0.0
    if reference.shape != got.shape:
        return math.inf
    reference = reference.astype(np.float64)
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-3)
    return float(np.abs(reference - got).max(initial=0.0)) / scale


def _first_difference(
    model: onnx.ModelProto,
    training_copy: onnx.ModelProto,
    feeds: Mapping[str, Array],
    floats: Mapping[str, Array],
) -> str:
    """Find the first node of the model whose result is another in the copy."""
    in_copy = {name for node in training_copy.graph.node for name in node.output}
    shared = {name: node for node in model.graph.node for name in node.output if name and name in in_copy}
    expected = _run_in_batches(model, feeds, shared)
    copied = Session(_with_outputs(training_copy, shared), optimize=False).run(floats)
    for name, node in shared.items():
        if _differ(model, expected[name], copied[name]):
            how = f"it differs by {_error(expected[name], copied[name]):.1%}"
            if expected[name].shape != copied[name].shape:
                how = f"its shape is {expected[name].shape} and would be {copied[name].shape}"
            where = f"node {node.name or name!r} ({node.op_type})"
            return f"{where} would compute something else in training: {name}: {how}"
    return "the training copy of this model computes something else than the model"
