"""The metric and the loss that suit a model and its data.

The graph shows the last operators of an output, and the first samples its form. A suggestion is a printed
default that can be changed; a form with several meanings gets the metric that holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data import LABELS, Dataset, class_axis
from onnxprune.evaluate.metrics import BatchOutputs, answers
from onnxprune.evaluate.metrics.detections import Thresholds
from onnxprune.evaluate.metrics.detector_outputs import recognised
from onnxprune.ir import Model
from onnxprune.ops.spec import spec_of
from onnxprune.runtime import Array, Session, TensorSpec
from onnxprune.train.output_heads import is_product, keeps_logits

_SAMPLES = 8
_PIXELS = 2.0
"""Largest coordinate from which four numbers are boxes in pixels, beside scores in one table."""
_NEIGHBOURS = 10
_ENOUGH = 100
"""Number of samples from which nearest neighbours are a measure."""
_DECIDED = {"Softmax", "LogSoftmax", "Sigmoid"}
_CACHES = ("present", "past")


@dataclass(frozen=True)
class Suggestion:
    """A metric and a loss.

    Attributes:
        metric: The metric that judges models.
        curves: The metric of sensitivities.
        loss: The loss of finetuning.
        reason: The finding that they follow from.
        drop: A usual limit on the loss of the metric.
    """

    metric: str
    curves: str
    loss: str
    reason: str
    drop: float = 0.01

    @property
    def measured(self) -> str:
        """The metric of an analysis: that of the labels, if there are any, else that of sensitivities."""
        return self.metric if self.labelled else self.curves

    @property
    def labelled(self) -> bool:
        """True if the loss is learnt from labels."""
        return self.loss == WITH_LABELS


WITH_LABELS = "0.5*cross-entropy + 0.5*distill"
"""Loss of a classifier with labels: Hinton et al., "Distilling the knowledge in a neural network" (2015)."""
_LABELLED = Suggestion("top1", "kl", WITH_LABELS, "the data has labels", 0.005)
_ONE_SCORE = Suggestion(
    "agreement",
    "kl",
    "distill",
    "one score a sample is no table of classes, and its labels are left out",
    0.005,
)
_CLASSES = Suggestion("agreement", "kl", "distill", "the data has no labels", 0.005)
_NUMBERS = Suggestion("cosine", "cosine", "distill", "the outputs are numbers")
_VALUES = Suggestion("mse", "mse", "distill", "the data has values for outputs of numbers")
_BOXES = Suggestion("detections", "detections", "distill", "the outputs are boxes")
_TEXTS = Suggestion("cer", "kl", "distill", "the output is read frame by frame, with a blank")
_TOKENS = Suggestion("perplexity", "kl", "distill", "the model has caches and returns logits of tokens", 1.0)
_EMBEDDINGS = Suggestion("cosine", "cosine", "cosine", "the output is an embedding")


def suggest(model: Model, session: Session, data: Dataset | None) -> Suggestion:
    """Suggest a metric and a loss.

    Args:
        model: The model.
        session: A session of it.
        data: Samples; ``None`` where there are none yet.

    Raises:
        DataError: The data does not fit the model.
        ModelError: The model fails.
    """
    if data is None:
        return _without_data(session.outputs)
    first = next(iter(answers(session, data.take(_SAMPLES), _SAMPLES)))
    if LABELS in first.targets:
        labels = first.targets[LABELS].shape
        axes = {name: class_axis(output.shape, labels) for name, output in first.outputs.items()}
        sizes = [first.outputs[name].shape[axis] for name, axis in axes.items() if axis is not None]
        if not sizes and len(labels) == 2 and _has_frames(model, first):
            return _TEXTS
        return _ONE_SCORE if sizes and max(sizes) == 1 else _LABELLED
    if _has_boxes(first.outputs):
        return _BOXES
    if first.tokens.ids is None and _has_frames(model, first):
        return _TEXTS
    ends = {name: _end(model, name) for name in first.outputs}
    if first.tokens.ids is not None and _caches(session):
        logits = [n for n, a in first.outputs.items() if a.ndim == 3 and is_product(ends[n])]
        return _TOKENS if logits else _NUMBERS
    classes = [n for n, a in first.outputs.items() if a.dtype.kind == "f" and _are_classes(a, ends[n])]
    valued = any(n in first.targets and a.dtype.kind == "f" for n, a in first.outputs.items())
    if classes:
        return _VALUES if valued and not any(ends[n] in _DECIDED for n in classes) else _CLASSES
    tables = [n for n, a in first.outputs.items() if a.dtype.kind == "f" and _is_embedding(a, first)]
    if tables:
        return _embeddings(data)
    return _VALUES if valued else _NUMBERS


def _without_data(outputs: Sequence[TensorSpec]) -> Suggestion:
    """Suggest by declared shapes alone: one table of classes looks like a classifier with labels to come."""
    shape = outputs[0].shape
    if len(outputs) == 1 and len(shape) == 2 and isinstance(shape[1], int) and shape[1] > 1:
        return replace(_LABELLED, reason="the model looks like a classifier")
    return _CLASSES if any(o.dtype.kind == "f" and len(o.shape) >= 2 for o in outputs) else _NUMBERS


def _has_boxes(outputs: Mapping[str, Array]) -> bool:
    try:
        form = recognised([outputs])
    except DataError:
        return False
    if form.scores:
        return True
    standard = Thresholds()
    boxes = form.read(outputs, standard.conf, standard.nms)
    return any(len(b.scores) and np.abs(b.corners).max() > _PIXELS for b in boxes)


def _has_frames(model: Model, answer: BatchOutputs) -> bool:
    """Return whether the only output scores classes frame by frame, one of them most often: the blank."""
    tables = [(n, a) for n, a in answer.outputs.items() if a.dtype.kind == "f"]
    if len(tables) != 1 or tables[0][1].ndim != 3 or min(tables[0][1].shape[1:]) < 3:
        return False
    name, frames = tables[0]
    end = _end(model, name)
    if not is_product(end) and end not in _DECIDED:
        return False
    best = frames.argmax(-1)
    return max(float((best == c).mean()) for c in (0, frames.shape[-1] - 1)) > 0.5


def _are_classes(values: Array, end: str) -> bool:
    """Return whether an output holds scores: [N, C] of a layer, or the result of Softmax or Sigmoid."""
    if values.ndim < 2:
        return False
    return end in _DECIDED or (values.ndim == 2 and values.shape[1] > 1 and is_product(end))


def _is_embedding(values: Array, answer: BatchOutputs) -> bool:
    """Return whether an output is a table [N, D], or [N, T, D] of tokens that were fed."""
    if values.ndim == 2:
        return int(values.shape[1]) > 1
    ids = answer.tokens.ids
    return values.ndim == 3 and ids is not None and bool(values.shape[:2] == ids.shape)


def _embeddings(data: Dataset) -> Suggestion:
    if (data.samples or 0) < _ENOUGH:
        return _EMBEDDINGS
    metric, found = f"retrieval@{_NEIGHBOURS}", _EMBEDDINGS
    return Suggestion(metric, found.curves, found.loss, found.reason, 0.05)


def _caches(session: Session) -> bool:
    names = [spec.name for spec in (*session.inputs, *session.outputs)]
    return any(name.startswith(_CACHES) for name in names)


def _end(model: Model, name: str) -> str:
    """Return the operator that an output ends in, behind operators that keep logits logits."""
    for node_name in _backwards(model, name):
        node = model.main.producer(node_name)
        if node is None:
            return ""
        if not keeps_logits(node.op_type, node.domain) and not spec_of(node).arithmetic:
            return node.op_type
    return ""


def _backwards(model: Model, name: str) -> Iterator[str]:
    """Yield a value and those it is computed from, where only one operand is computed."""
    while name:
        yield name
        node = model.main.producer(name)
        if node is None:
            return
        computed = [operand for operand in node.input if operand and operand not in model.constants]
        if not computed or (spec_of(node).arithmetic and len(computed) != 1):
            return
        name = computed[0]
