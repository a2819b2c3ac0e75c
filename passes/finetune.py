"""``finetune``: recover what pruning lost, the removed channels staying exactly zero.

What is trained is the shrunk network, so a step costs what the pruned network costs; the trained weights are
then put back in their places in the sparse model, around the zeros. Training the masked model gives the same
weights, only slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from onnxprune.channels import Channels
from onnxprune.data import Dataset, DataSpec, open_data
from onnxprune.errors import DataError, UsageError
from onnxprune.graph import Model, load
from onnxprune.masks import check_zero, dead_channels
from onnxprune.metrics import Metric, baseline_outputs, evaluate, get_metric
from onnxprune.passes.base import Pass, PassResult
from onnxprune.planned import planned_channels, stored_plan
from onnxprune.progress import Task, task
from onnxprune.runtime import Array, Session
from onnxprune.shrink import shrunk
from onnxprune.training.engine import train
from onnxprune.training.settings import Loss, OptimizerName, Schedule, StepReport, TrainSettings

DEFAULT_METRIC: Mapping[str, str] = {"cross-entropy": "top1", "mse": "mse", "l1": "mae", "distill": "kl"}


@dataclass(frozen=True)
class Finetune(Pass):
    """Train a model on data, keeping removed channels at zero.

    Attributes:
        data: Training data.
        loss: ``cross-entropy`` on labels; ``mse``, ``l1`` or ``bce`` on targets named like the outputs;
            ``distill`` on the outputs of a teacher.
        teacher: The teacher of ``distill``, a model or its file: usually the model before pruning.
        epochs: Passes over the data.
        batch_size: Samples a step.
        optimizer: ``adamw`` or ``sgd`` with momentum.
        lr: Peak step size; by default one that suits the optimizer.
        weight_decay: See ``TrainSettings``.
        schedule: How the step size falls: ``cosine``, ``linear``, ``step`` or ``constant``.
        warmup: Fraction of the steps over which it first rises.
        clip_norm: Largest norm of the gradient.
        val: Held-back data; with it the weights of the best epoch are kept, otherwise those of the last.
        metric: What is measured on it; by default what suits the loss.
        seed: Order of the samples.
        threads: Threads of the training process.
    """

    name: ClassVar[str] = "finetune"

    data: DataSpec
    loss: Loss = "cross-entropy"
    teacher: Model | str | None = None
    epochs: int = 1
    batch_size: int = 32
    optimizer: OptimizerName = "adamw"
    lr: float | None = None
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
    val: DataSpec | None = None
    metric: str | None = None
    seed: int = 0
    threads: int | None = None

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        super().requires(given)
        if self.batch_size < 1:
            raise UsageError(
                f"cannot train on batches of {self.batch_size}", "give a batch size of 1 or more"
            )
        if (self.loss == "distill") != (self.teacher is not None):
            raise UsageError("the loss 'distill' and a teacher go together", "give both, or neither")

    def run(self, given: PassResult) -> PassResult:
        """Shrink, train, put the weights back."""
        plan = stored_plan(given.model)
        channels = planned_channels(given.model, plan)
        removed: Mapping[str, Sequence[int]] = plan.removed if plan else dead_channels(channels)
        if plan:
            check_zero(channels, removed)
        dense = shrunk(channels, removed)
        lesson = _Lesson.open(self, dense)
        weights, facts = lesson.teach()
        tuned = channels.model.copy()
        _put_back(channels, tuned, removed, weights)
        return PassResult(tuned, True, facts, given.analysis)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The tuned model is valid, and what its plan names is still zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)

    def settings(self) -> TrainSettings:
        """Return the options of the training engine."""
        return TrainSettings(
            loss=self.loss,
            optimizer=self.optimizer,
            epochs=self.epochs,
            learning_rate=self.lr,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
            threads=self.threads,
        )


@dataclass
class _Lesson:
    """One run of training: the student, what it is shown, and how it is marked."""

    options: Finetune
    student: Model
    data: Dataset
    teacher: Session | None
    exam: _Exam | None
    best: dict[str, Array] = field(default_factory=dict)
    score: float | None = None
    scores: list[float] = field(default_factory=list)

    @classmethod
    def open(cls, options: Finetune, student: Model) -> _Lesson:
        session = Session(student.proto, threads=options.threads)
        data = open_data(options.data, session.inputs, session.outputs)
        teacher = options.teacher
        if isinstance(teacher, str):
            teacher = load(teacher)
        lecturer = Session(teacher.proto, threads=options.threads) if teacher is not None else None
        exam = None
        if options.val is not None:
            exam = _Exam.open(options, open_data(options.val, session.inputs, session.outputs), lecturer)
        return cls(options, student, data, lecturer, exam)

    def teach(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Train; return the weights to keep and what there is to report."""
        steps = -(-_samples(self.data) // self.options.batch_size) * self.options.epochs
        with task("finetune", total=steps) as progress:
            result = train(
                self.student.proto,
                self._batches,
                settings=self.options.settings(),
                total_steps=steps,
                on_step=lambda report: _show(progress, report),
                on_epoch=self._mark if self.exam else None,
            )
        facts = {"losses": list(result.losses), "steps": result.steps, "training_s": result.seconds}
        if self.exam:
            facts |= {"metric": self.exam.metric.name, "scores": self.scores, "best_score": self.score}
        return (self.best or dict(result.weights)), facts

    def _batches(self, epoch: int) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        size, seed = self.options.batch_size, self.options.seed
        for batch in self.data.batches(size, shuffle=True, seed=seed, epoch=epoch):
            yield batch.inputs, (self.teacher.run(batch.inputs) if self.teacher else batch.targets)

    def _mark(self, epoch: int, weights: Mapping[str, Array]) -> None:
        """Measure the weights of an epoch, and keep them if they are the best so far."""
        assert self.exam is not None
        for name, values in weights.items():
            self.student.set_array(name, values)
        score = self.exam.mark(self.student)
        self.scores.append(score)
        better = self.score is None or (score > self.score) == self.exam.metric.higher_is_better
        if better:
            self.score, self.best = score, {n: np.array(v) for n, v in weights.items()}


@dataclass
class _Exam:
    """Held-back data and a metric on it."""

    data: Dataset
    metric: Metric
    options: Finetune
    baseline: Any = None

    @classmethod
    def open(cls, options: Finetune, data: Dataset, teacher: Session | None) -> _Exam:
        name = options.metric or DEFAULT_METRIC.get(options.loss)
        if name is None:
            raise UsageError(f"no metric is usual for the loss '{options.loss}'", "name one with --metric")
        metric = get_metric(name)
        if metric.uses_baseline and teacher is None:
            raise DataError(f"{name} compares with a teacher, and there is none", "choose a metric on labels")
        baseline = baseline_outputs(teacher, data) if metric.uses_baseline and teacher else None
        return cls(data, metric, options, baseline)

    def mark(self, model: Model) -> float:
        session = Session(model.proto, threads=self.options.threads)
        return evaluate(session, self.data, self.metric, baseline=self.baseline)


def _put_back(
    channels: Channels, model: Model, removed: Mapping[str, Sequence[int]], weights: Mapping[str, Array]
) -> None:
    """Put the weights of the shrunk network into their places in the whole one."""
    cuts = channels.cuts(channels.kept(removed))
    for name, values in weights.items():
        whole = np.array(model.array(name))
        axes = cuts.get(name, {})
        places = np.ix_(*(axes.get(a, np.arange(n)) for a, n in enumerate(whole.shape)))
        whole[places] = values
        model.set_array(name, whole)


def _samples(data: Dataset) -> int:
    """Return how many samples there are; data from a callable is counted by reading it once."""
    return data.samples or sum(batch.size for batch in data.batches(1024))


def _show(progress: Task, report: StepReport) -> None:
    progress.advance(1, note=f"epoch {report.epoch + 1}, loss {report.loss:.4f}")
