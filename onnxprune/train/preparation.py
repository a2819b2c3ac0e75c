"""Preparation of a training: the graph, the trainables, the inputs of each batch."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxprune.errors import DataError, PlanError, TrainingError
from onnxprune.runtime.batch_axes import Axes
from onnxprune.support.processors import idle, usable_processors
from onnxprune.train.batch_samples import batch_size, input_axes, output_axes, sample_shape
from onnxprune.train.dialect import declared_batch
from onnxprune.train.engines import STOCK, Engine, candidates
from onnxprune.train.forward import check_forward, checked_samples
from onnxprune.train.gradient_support import check_gradient_path
from onnxprune.train.objective import attach_loss, check_targets
from onnxprune.train.output_heads import Head
from onnxprune.train.settings import TrainSettings
from onnxprune.train.step_graphs import StepGraphs
from onnxprune.train.stock import KEPT_GRAPHS, VALUE, Signature
from onnxprune.train.training_copy import TrainingCopy, make_training_copy
from onnxprune.train.wire import MASK_PREFIX, Array

Batch: TypeAlias = tuple[Mapping[str, Array], Mapping[str, Array]]
Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Job:
    """The decisions before the start of the worker.

    Attributes:
        model: The user's model.
        sample: The first batch of inputs, in the model's own types.
        heads: Heads, which are the tensors that have targets.
        inputs: Names of the training graph's inputs, in order.
        fields: Fields of the worker's `load` request.
        arrays: Arrays of that request: those that the engine needs, and the masks.
        ignored: The label of positions that do not count; ``None`` for none.
        engine: The name of the engine.
        graphs: Graphs of the stock engine's steps.
        again: Makes the job of a batch whose samples have other shapes, such as longer texts; ``None`` for
            an engine whose one graph is of fixed sizes.
        others: The last such jobs, by the shapes.
    """

    model: onnx.ModelProto
    sample: Mapping[str, Array]
    heads: tuple[Head, ...]
    inputs: tuple[str, ...]
    fields: Mapping[str, object]
    arrays: Mapping[str, Array]
    ignored: int | None
    engine: str
    graphs: StepGraphs | None
    again: Callable[[Batch], Job] | None = None
    others: OrderedDict[Shapes, Job] = field(default_factory=OrderedDict)

    def batch(self, batch: Batch) -> tuple[dict[str, Array], int]:
        """Validate a batch; return the arrays for the worker, and the number of samples."""
        inputs = checked_inputs(self.model, batch[0])
        axes = input_axes(self.model, inputs)
        shapes = _sample_shapes(inputs, axes)
        if shapes != _sample_shapes(self.sample, axes):
            return self._of_shapes(shapes, batch).batch(batch)
        samples = batch_size(inputs, axes)
        targets = check_targets(self.heads, batch[1], samples, self.ignored)
        arrays = {name: (targets | inputs)[name] for name in self.inputs}
        return arrays if self.graphs is None else arrays | self.graphs.new(arrays), samples

    def _of_shapes(self, shapes: Shapes, batch: Batch) -> Job:
        """Return the job of samples of other shapes than the first."""
        if self.again is None:
            first = dict(_sample_shapes(self.sample, input_axes(self.model, self.sample)))
            name, found = next((n, shape) for n, shape in shapes if shape != first[n])
            raise TrainingError(
                f"input {name!r} has samples of shape {found}, the first had {first[name]}, and the engine "
                f"{self.engine} takes one shape",
                "cut or pad the samples to one shape, or use --engine stock",
            )
        job = self.others.pop(shapes, None) or self.again(batch)
        if job.fields["trainable"] != self.fields["trainable"]:
            raise TrainingError(
                f"samples of shapes {dict(shapes)} train other tensors than the first ones",
                "cut or pad the samples to one shape",
            )
        self.others[shapes] = job
        if len(self.others) > KEPT_GRAPHS:
            self.others.popitem(last=False)
        return job


def _sample_shapes(inputs: Mapping[str, Array], axes: Axes) -> Shapes:
    return tuple((name, sample_shape(array, axes[name])) for name, array in inputs.items())


def prepare(
    model: onnx.ModelProto,
    first: Batch,
    settings: TrainSettings,
    masks: Mapping[str, Array],
    frozen_statistics: bool = False,
    change: Callable[[TrainingCopy], TrainingCopy] = lambda copied: copied,
) -> Job:
    """Make the copy, compare it with the model, attach the loss, and follow the gradient.

    Args:
        model: The user's model.
        first: The first batch, whose shapes determine the graphs.
        settings: Options of the training, with its engine.
        masks: Masks of the elements of trained tensors that may be other than zero.
        frozen_statistics: True if BatchNormalization uses its running statistics, as in inference.
        change: Change made to the copy once it has been compared.

    Raises:
        DataError: Inputs or targets are missing or do not fit the model.
        PlanError: A mask does not fit its tensor.
        TrainingError: The model cannot be trained.
    """
    engines = candidates(settings.engine)
    refused: TrainingError | None = None
    for engine in engines:
        try:
            return _prepared(model, first, settings, masks, frozen_statistics, change, engine)
        except TrainingError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _prepared(
    model: onnx.ModelProto,
    first: Batch,
    settings: TrainSettings,
    masks: Mapping[str, Array],
    frozen_statistics: bool,
    change: Callable[[TrainingCopy], TrainingCopy],
    engine: Engine,
    sent: OrderedDict[Signature, None] | None = None,
) -> Job:
    """Prepare for one engine; the worker may have graphs of steps already, those that were sent."""
    sample = checked_inputs(model, first[0], own_types=True)
    copied = make_training_copy(model, sample, frozen_statistics, engine.rewrites)
    outputs = check_forward(model, copied.model(), sample)
    copied = change(copied)
    rows = checked_samples(batch_size(sample, input_axes(model, sample)), declared_batch(model))
    axes = output_axes(model, outputs, rows)
    heads = attach_loss(copied.graph, settings, first[1], outputs, axes)
    trainables = check_gradient_path(copied.graph, copied.trainables, engine.refusal)
    inputs = tuple(tensor.name for tensor in copied.graph.inputs)
    fields = _fields(copied, trainables, settings, engine)
    graph, graphs = copied.model(), None
    if engine is STOCK:
        frozen = fields["frozen"]
        graphs = StepGraphs(graph, trainables, frozen, OrderedDict() if sent is None else sent)
        graphs.prepare(batch_size(sample, input_axes(model, sample)))
        arrays = _values(copied, (*trainables, *frozen))
    else:
        arrays = {"model": np.frombuffer(graph.SerializeToString(), np.uint8)}
    arrays |= _mask_arrays(copied, trainables, masks)
    ignored, again = settings.ignore_index, None
    if graphs is not None:
        known = graphs.sent

        def again(batch: Batch) -> Job:
            return _prepared(model, batch, settings, masks, frozen_statistics, change, engine, known)

    return Job(model, sample, heads, inputs, fields, arrays, ignored, engine.name, graphs, again)


def _values(copied: TrainingCopy, names: Iterable[str]) -> dict[str, Array]:
    tensors = copied.graph.tensors()
    return {VALUE + name: np.asarray(tensors[name].values, np.float32) for name in names}


def _fields(
    copied: TrainingCopy, trainables: tuple[str, ...], settings: TrainSettings, engine: Engine
) -> dict[str, Any]:
    kept = {tensor.name for node in copied.graph.nodes for tensor in node.inputs}
    return {
        "engine": engine.name,
        "trainable": trainables,
        "frozen": [name for name in copied.statistics if name in kept],
        "threads": settings.threads or usable_processors(),
        "spin": idle(),  # threads that wait in busy loops: faster then, and half as fast otherwise
        "optimizer": settings.optimizer,
        "average": settings.ema,
        "options": {
            "weight_decay": settings.weight_decay,
            "clip_norm": settings.largest_norm if math.isfinite(settings.largest_norm) else None,
            "momentum": settings.momentum,
        },
    }


def _mask_arrays(
    copied: TrainingCopy, trainables: tuple[str, ...], masks: Mapping[str, Array]
) -> dict[str, Array]:
    tensors = copied.graph.tensors()
    shapes = {name: tuple(tensors[name].shape) for name in trainables}
    return {
        MASK_PREFIX + name: _checked_mask(name, masks[name], shapes[name]) for name in masks if name in shapes
    }


def _checked_mask(name: str, mask: Array, shape: tuple[int, ...]) -> Array:
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits or mask.dtype != np.bool_:
        raise PlanError(
            f"the mask of {name} is {mask.dtype} of shape {mask.shape}; the tensor has shape {shape}"
        )
    return mask


def checked_inputs(
    model: onnx.ModelProto, inputs: Mapping[str, Array], own_types: bool = False
) -> dict[str, Array]:
    """Bring inputs into the types of the model, or of its training copy, which has only 32-bit floats."""
    constant = {tensor.name for tensor in model.graph.initializer}
    checked = {}
    for info in model.graph.input:
        if info.name in constant:
            continue
        if info.name not in inputs:
            raise DataError(f"a batch has no input {info.name!r}; it has {', '.join(inputs) or 'none'}")
        array = np.asarray(inputs[info.name])
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        floating = np.issubdtype(dtype, np.floating) or dtype.kind == "V"
        if not (array.dtype.kind == "f" if floating else np.can_cast(array.dtype, dtype)):
            raise DataError(f"input {info.name!r} must be {dtype}, it is {array.dtype}")
        checked[info.name] = array.astype(np.float32 if floating and not own_types else dtype, copy=False)
    return checked
