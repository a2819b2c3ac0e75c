"""``finetune``: recover what pruning lost, the removed channels staying exactly zero.

What is trained is the shrunk network, so a step costs what the pruned network costs; the trained weights are
then put back in their places in the sparse model, around the zeros. Training the masked model gives the same
weights, only slower.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnxprune.algebra.axes import kept_indices
from onnxprune.analysis.groups.channels import Channels
from onnxprune.decisions.channels.adapted_inputs import fed_as_before
from onnxprune.decisions.channels.masks import check_zero
from onnxprune.decisions.channels.planned import planned_channels, removed_channels, stored_plan
from onnxprune.decisions.channels.shrink import rescaled_constants
from onnxprune.decisions.channels.statistics import sparse_in_own_graph
from onnxprune.decisions.origin import Origin
from onnxprune.errors import TrainingError, UsageError
from onnxprune.evaluate.data import Dataset, DataSpec, open_data
from onnxprune.ir import Model, load
from onnxprune.passes.base import Pass, PassResult
from onnxprune.runtime import Array, Session
from onnxprune.support.progress import Task, task
from onnxprune.train.checkpoint import Checkpoints
from onnxprune.train.engine import train
from onnxprune.train.losses import asks_teacher
from onnxprune.train.settings import EngineName, OptimizerName, ScheduleName, StepReport, TrainSettings
from onnxprune.train.tuning.origin import trained
from onnxprune.train.tuning.teacher import Indices, Teacher
from onnxprune.train.tuning.unfold import NEAR, Unfold, Unfolded, distance, foldable, moments_of, unfold
from onnxprune.train.tuning.validation import Validation, baseline_for, metric_for

Removed = Mapping[str, Sequence[int]]
_TOLD_BY = 256
"""Samples that tell data apart from other data of the same size."""


@dataclass(frozen=True)
class Finetune(Pass):
    """Train a model on data, keeping removed channels at zero.

    Attributes:
        data: Training data.
        loss: ``cross-entropy`` on labels; ``mse``, ``l1`` or ``bce`` on targets named like the outputs;
            ``distill`` on the outputs of a teacher, ``features`` on tensors within it; an ``.onnx`` file or
            ``module:callable``; or a weighted sum such as ``0.3*cross-entropy + 0.7*distill``.
        teacher: Who ``distill`` and ``features`` learn from, a model or its file: usually the model before
            pruning.
        features: Tensors that the loss ``features`` makes like the teacher's.
        class_weights: A factor for each class in ``cross-entropy``.
        ignore_index: The label that ``cross-entropy`` does not count.
        epochs: Passes over the data.
        batch_size: Samples a batch.
        accumulate: Batches a step.
        optimizer: ``sgd`` with momentum, or ``adamw``.
        lr: Peak step size; by default one that suits the optimizer.
        weight_decay: See ``TrainSettings``.
        schedule: How the step size falls: ``cosine``, ``linear``, ``step`` or ``constant``.
        warmup: Fraction of the steps over which it first rises.
        clip_norm: Largest norm of the gradient, infinity for no limit; by default what suits the optimizer.
        ema: Decay of a running average of the weights, which is then the result.
        val: Held-back data; with it the weights of the best epoch are kept, those given if none is better;
            without it those of the last.
        metric: What is measured on it; by default what suits the loss.
        patience: Epochs without a better score after which training ends.
        seed: Order of the samples.
        original: The model before pruning, or its file, for its statistics (see ``unfold``); by default the
            teacher, or what `prune` has noted of it in the sparse model.
        unfold: Whether BatchNormalization that was folded away is put back while training, starting from the
            statistics of the original, or from its own where it is near the original as it is (it has been
            repaired): ``auto`` where the model has no normalisation at all, ``always``
            behind every convolution that allows it, or ``never``.
        checkpoint: A file to go on from when training was killed; who names it deletes it in the end.
        checkpoint_every: Steps from one checkpoint to the next.
        resume: Whether to go on from the checkpoint, if there is one.
        threads: Threads of the training process.
        engine: What computes the steps: ``stock``, the onnxruntime that is there; ``ort-training``, see
            ``setup-training``; or ``auto``, the faster one that can train the model.
        input_shapes: Full shapes to analyse and run with, by input name.
        dims: Sizes to analyse and run with, by the name of an open axis of the inputs.
    """

    name: ClassVar[str] = "finetune"
    preserves: ClassVar[frozenset[str]] = frozenset({"plan"})

    data: DataSpec
    loss: str = "cross-entropy"
    teacher: Model | str | None = None
    features: Sequence[str] = ()
    class_weights: Sequence[float] | None = None
    ignore_index: int | None = None
    epochs: int = 1
    batch_size: int = 32
    accumulate: int = 1
    optimizer: OptimizerName = "sgd"
    lr: float | None = None
    weight_decay: float = 0.0
    schedule: ScheduleName = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None
    val: DataSpec | None = None
    metric: str | None = None
    patience: int | None = None
    seed: int = 0
    original: Model | str | None = None
    unfold: Unfold = "auto"
    checkpoint: str | Path | None = None
    checkpoint_every: int = 200
    resume: bool = False
    threads: int | None = None
    engine: EngineName = "auto"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        super().requires(given)
        if self.batch_size < 1:
            raise UsageError(
                f"cannot train on batches of {self.batch_size}", "give a batch size of 1 or more"
            )
        if self.patience is not None and (self.val is None or self.patience < 1):
            raise UsageError("patience is a number of epochs, and is judged on held-back data", "give --val")
        asks = asks_teacher(self.loss)
        if self.teacher is None and asks:
            raise UsageError(f"the loss '{self.loss}' needs a teacher", "give the model before pruning")
        if self.teacher is not None and asks is False:
            raise UsageError(
                f"the loss '{self.loss}' does not ask the teacher", "'distill' does: give that, or no teacher"
            )

    def run(self, given: PassResult) -> PassResult:
        """Shrink, train, put the weights back."""
        channels, removed = removed_channels(given.model, stored_plan(given.model))
        dense = fed_as_before(channels, removed)
        rescaled = rescaled_constants(channels, removed, dense)
        _require_each_once(rescaled, dense)
        session = Session(dense.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs)
        unfolded = self._unfold(dense, data, channels, removed)
        val = open_data(self.val, session.inputs, session.outputs) if self.val is not None else None
        checkpoints = self._checkpoints(given.model, data)
        exam = self._exam(unfolded.model.copy(), val, checkpoints) if val is not None else None
        if exam is not None:
            exam.judge_given(dense)
        teacher = self._teacher(channels, removed)
        if teacher is not None:
            teacher.remember(data)
        weights, facts = self._train(unfolded.model, data, teacher, exam, checkpoints)
        tuned = channels.model.copy()
        if exam is None or exam.best_epoch:
            _put_back(channels, tuned, removed, _unscaled(unfolded.folded(weights), rescaled))
        facts |= {"unfolded": len(unfolded.folds)} | (exam.facts() if exam else {})
        result = sparse_in_own_graph(given.model, channels, removed, tuned)
        if exam is None or exam.best_epoch:
            trained(result)
        return PassResult(result, True, facts, given.analysis)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The tuned model is valid, and what its plan names is still zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)

    def settings(self) -> TrainSettings:
        """Return the options of the training engine."""
        own = {option.name for option in fields(TrainSettings)} & {option.name for option in fields(self)}
        chosen = {name: getattr(self, name) for name in own - {"class_weights", "features"}}
        weights = None if self.class_weights is None else tuple(self.class_weights)
        return TrainSettings(
            learning_rate=self.lr, class_weights=weights, features=tuple(self.features), **chosen
        )

    def _train(
        self,
        student: Model,
        data: Dataset,
        teacher: Teacher | None,
        exam: Validation | None,
        checkpoints: Checkpoints | None,
    ) -> tuple[Mapping[str, Array], dict[str, Any]]:
        """Train; return the weights to keep and what there is to report."""

        def batches(epoch: int) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
            for batch in data.batches(self.batch_size, shuffle=True, seed=self.seed, epoch=epoch):
                yield batch.inputs, batch.targets | (teacher.targets(batch) if teacher else {})

        steps = -(-data.count() // (self.batch_size * self.accumulate)) * self.epochs
        with task("finetune", total=steps) as progress:
            result = train(
                student.proto,
                batches,
                settings=self.settings(),
                total_steps=steps,
                on_step=lambda report: _show(progress, report),
                on_epoch=exam,
                checkpoints=checkpoints,
            )
        facts = {
            "losses": list(result.losses),
            "steps": result.steps,
            "steps_failed": result.went_back,
            "training_s": result.seconds,
            "engine": result.engine,
        }
        return (exam.best if exam else result.weights), facts

    def _exam(self, student: Model, val: Dataset, checkpoints: Checkpoints | None) -> Validation:
        metric, whole = metric_for(self.loss, self.metric), _loaded(self.teacher)
        teacher = Session(whole.proto, threads=self.threads) if whole is not None else None
        baseline = baseline_for(metric, teacher, val)
        return Validation(student, val, metric, baseline, self.threads, self.patience, checkpoints)

    def _teacher(self, channels: Channels, removed: Removed) -> Teacher | None:
        """Prepare the teacher to answer with what the student still has."""
        model = _loaded(self.teacher)
        if model is None:
            return None
        kept, axes = channels.kept(removed), channels.typing.axes
        features: dict[str, Indices] = {
            name: {k: kept_indices(dim, kept) for k, dim in enumerate(axes.get(name, ())) if k}
            for name in self.features
        }
        return Teacher.open(model, features, self.threads)

    def _unfold(self, student: Model, data: Dataset, channels: Channels, removed: Removed) -> Unfolded:
        """Put folded normalisation back, with the original's statistics of the channels that are left."""
        names = foldable(student, self.unfold)
        if not names:
            return Unfolded(student, ())
        own = moments_of(student, names, data, seed=self.seed, threads=self.threads)
        whole, near = self._statistics(student, own, data, Origin.stored(channels.model.metadata()))
        biases = {node.output[0]: node.input[2] for node in student.nodes if node.output[0] in own}
        cuts, wanted = channels.cuts(channels.kept(removed)), {}
        for name, found in whole.items():
            bias = biases.get(name, "")
            if bias and len(found[0]) == len(channels.model.array(bias)):
                kept = cuts.get(bias, {}).get(0, slice(None))
                mean, deviation = (channels.put_in_order(bias, a)[kept] for a in found)
                wanted[name] = (mean, deviation)
        return unfold(student, own, {} if near else wanted)

    def _statistics(
        self, student: Model, names: Collection[str], data: Dataset, noted: Origin | None
    ) -> tuple[Mapping[str, tuple[Array, Array]], bool]:
        """Return means and deviations of the original by tensor, and whether the student is near it."""
        original = _loaded(self.teacher if self.original is None else self.original)
        if original is None:
            return (noted.statistics, noted.near) if noted else ({}, False)
        made = {name for node in original.nodes for name in node.output}
        how: dict[str, Any] = {"seed": self.seed, "threads": self.threads}
        found = moments_of(original, [n for n in names if n in made], data, **how)
        near = distance(student, original, data, **how) < NEAR
        return {name: (m.mean, np.sqrt(m.variance)) for name, m in found.items()}, near

    def _checkpoints(self, model: Model, data: Dataset) -> Checkpoints | None:
        """Say where checkpoints go, and what tells this training apart from others."""
        if self.checkpoint is None:
            if self.resume:
                raise UsageError("there is no checkpoint to go on from", "name the file")
            return None
        aside = {"data", "val", "teacher", "original", "checkpoint", "resume"}
        identity = {o.name: getattr(self, o.name) for o in fields(self) if o.name not in aside}
        models = {"model": model, "teacher": _loaded(self.teacher), "original": _loaded(self.original)}
        identity |= {name: _digest(given) for name, given in models.items() if given is not None}
        # All of it may take long to read, and what a callable yields may differ from call to call.
        known = data.samples is not None
        identity["data"] = [data.samples, data.take(_TOLD_BY).digest()] if known else data.name
        return Checkpoints(Path(self.checkpoint), self.checkpoint_every, identity, self.resume)


def _loaded(model: Model | str | None) -> Model | None:
    return load(model) if isinstance(model, str) else model


def _digest(model: Model) -> str:
    return hashlib.sha256(model.proto.SerializeToString(deterministic=True)).hexdigest()


def _require_each_once(rescaled: Mapping[str, tuple[str, float]], dense: Model) -> None:
    """Refuse a constant of which the shrunk network has several multiples: training would part them.

    Raises:
        TrainingError: Naming the constant.
    """
    for name, count in Counter(name for name, _ in rescaled.values()).items():
        if count > 1 or name in dense.constants:
            raise TrainingError(
                f"'{name}' scales several normalisations, over axes that have lost channels",
                "give each of them a scale of its own",
            )


def _unscaled(weights: Mapping[str, Array], rescaled: Mapping[str, tuple[str, float]]) -> dict[str, Array]:
    """Turn trained multiples of constants back into what the whole network has in their place."""
    found = {}
    for name, values in weights.items():
        own, factor = rescaled.get(name, (name, 1.0))
        found[own] = values if factor == 1 else (values / factor).astype(values.dtype)
    return found


def _put_back(
    channels: Channels, model: Model, removed: Mapping[str, Sequence[int]], weights: Mapping[str, Array]
) -> None:
    """Put the weights of the shrunk network into their places in the whole one."""
    cuts = channels.cuts(channels.kept(removed))
    for name, values in weights.items():
        whole = np.array(channels.put_in_order(name, model.array(name)))
        axes = cuts.get(name, {})
        places = np.ix_(*(axes.get(a, np.arange(n)) for a, n in enumerate(whole.shape)))
        whole[places] = values
        model.set_array(name, channels.put_back(name, whole))


def _show(progress: Task, report: StepReport) -> None:
    progress.advance(1, note=f"epoch {report.epoch + 1}, loss {report.loss:.4f}")
