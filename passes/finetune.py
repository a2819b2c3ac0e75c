"""``finetune``: recover the accuracy lost by pruning; the removed channels stay exactly zero.

The shrunk network is trained, so a step costs as much as in the pruned network; the trained weights are
then put back in their places in the sparse model, around the zeros. Training of the masked model gives the
same weights, only slower.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnxprune.algebra.kept_axes import kept_indices
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.inputs import check_fixed_tensors
from onnxprune.decisions.channels.adapted_inputs import fed_as_before
from onnxprune.decisions.channels.masks import check_zero
from onnxprune.decisions.channels.planned import planned_channels, removed_channels, stored_plan
from onnxprune.decisions.channels.remaining_statistics import sparse_in_own_graph
from onnxprune.decisions.channels.rescaling import rescaled_constants
from onnxprune.decisions.elements import check_kept, dense_masks
from onnxprune.decisions.origin_note import Origin
from onnxprune.decisions.rotation import basis_of
from onnxprune.errors import TrainingError, UsageError
from onnxprune.evaluate.data import Dataset, DataSpec, open_data
from onnxprune.ir import Model, load
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.reports import FinetuneReport
from onnxprune.passes.rotate import in_basis_of
from onnxprune.runtime import Array, Session
from onnxprune.support.common_options import InputSizes, Seeded, Threaded
from onnxprune.support.mapped import load_all
from onnxprune.support.option_fields import Key, NumberRange, option
from onnxprune.support.progress import Task, task
from onnxprune.train.checkpoint import Checkpoints
from onnxprune.train.engine import train
from onnxprune.train.losses import asks_teacher
from onnxprune.train.settings import EngineName, OptimizerName, ScheduleName, StepReport, TrainSettings
from onnxprune.train.step_sizes import default_step_size
from onnxprune.train.tuning.epoch_limit import EpochLimit
from onnxprune.train.tuning.original_statistics import trained
from onnxprune.train.tuning.teacher import Indices, Teacher
from onnxprune.train.tuning.unfold import NEAR, Unfold, Unfolded, distance, foldable, moments_of, unfold
from onnxprune.train.tuning.validation import Validation, baseline_for, meaning_of, metric_for

Removed = Mapping[str, Sequence[int]]
_TOLD_BY = 256
"""Number of samples in the digest that distinguishes data sets of the same size."""


@dataclass(frozen=True)
class Finetune(Seeded, Threaded, InputSizes, Pass):
    """Train a model on data, keeping removed channels at zero.

    Attributes:
        data: Training data: an .npz or .jsonl file, a folder of samples, or module:callable.
        loss: One of cross-entropy, mse, l1, bce, distill, cosine, features; an .onnx file or
            module:callable; or a sum such as "0.3*cross-entropy + 0.7*distill".
        teacher: Teacher of `distill`, `cosine` and `features`: an ONNX file, or a model; by default the
            original.
        features: Tensors that the loss of this name makes like the teacher's.
        class_weights: A factor for each class in ``cross-entropy``.
        ignore_index: The label that ``cross-entropy`` does not count.
        epochs: Passes over the data.
        samples: Only so many samples, drawn at random once.
        batch_size: Samples a batch.
        accumulate: Batches a step.
        optimizer: ``sgd`` has a momentum of 0.9.
        lr: Peak step size; by default 0.02 for ``sgd``; for ``adamw`` 0.0005, and 0.0002 for a model with
            attention or LayerNormalization.
        weight_decay: Rate of weight decay.
        schedule: Course of the step size.
        warmup: Fraction of the steps over which the step size first rises.
        clip_norm: Largest norm of the gradient, ``inf`` for none; by default 1 for ``sgd``.
        ema: Decay of a running average of the weights, which is then kept.
        val: Held-back data; the weights of the best epoch are kept, or those given.
        metric: Metric measured on it; by default one that suits the loss.
        patience: Epochs without a better score after which training ends.
        minutes: Minutes of training; no epoch begins that would end later, judged by those before. The
            course of the step size is that of all epochs, or that of the time where it is further.
        original: The model before pruning, for its statistics; by default the statistics noted by `prune`.
        unfold: Put folded BatchNormalization back while training: ``auto`` where the model has no
            normalisation at all, ``always`` behind every convolution that allows it, or ``never``.
        engine: Engine of the steps: ``stock``, the onnxruntime that is there; ``ort-training``, see
            `setup-training`; or ``auto``, the faster one that can train the model.
        checkpoint: File to go on from; by default OUTPUT.checkpoint on the command line. A caller that names
            it in Python deletes it in the end.
        checkpoint_every: Steps from one checkpoint to the next.
        resume: Go on from the checkpoint of a killed training, if there is one.
    """

    name: ClassVar[str] = "finetune"
    preserves: ClassVar[frozenset[str]] = frozenset({"plan"})

    data: DataSpec = field(metadata=option(metavar="DATA", place="reads"))
    loss: str = field(
        default="cross-entropy",
        metadata=option(
            metavar="TEXT",
            place="reads a sum",
            key=Key(
                text="Loss to minimise; those that need a teacher learn from the original.",
                note="cross-entropy mse l1 bce; distill cosine: from the original, no labels; or a sum",
            ),
        ),
    )
    teacher: Model | str | None = field(default=None, metadata=option(place="reads"))
    features: Sequence[str] = field(
        default=(),
        metadata=option(
            metavar="TENSOR",
            key=Key(
                text="Tensors that the loss ``features`` makes like the original's.",
                example='["block3_out"]',
                note="tensors the loss `features` makes like the original's",
            ),
        ),
    )
    class_weights: Sequence[float] | None = field(
        default=None,
        metadata=option(metavar="W,W,…", key=Key(example="[1.0, 2.0]", note="of cross-entropy, one a class")),
    )
    ignore_index: int | None = field(
        default=None,
        metadata=option(key=Key(example="-100", note="the label that cross-entropy does not count")),
    )
    epochs: int = field(
        default=1,
        metadata=option(
            least=1,
            key=Key(
                default=3,
                bounds=NumberRange(least=0),
                text="Passes over the training data in every iteration; 0 for no training at all.",
                note="of every iteration; 0: no training",
            ),
        ),
    )
    samples: int | None = field(
        default=None, metadata=option(least=1, key=Key(example="2000", note="drawn once; by default all"))
    )
    batch_size: int = field(default=32, metadata=option(least=1, key=Key()))
    accumulate: int = field(default=1, metadata=option(least=1, key=Key(example="4", note="batches a step")))
    optimizer: OptimizerName = field(default="sgd", metadata=option(key=Key(note="{choices}")))
    lr: float | None = field(default=None, metadata=option(above=0, key=Key(example="0.02")))
    weight_decay: float = field(default=0.0, metadata=option(least=0, key=Key()))
    schedule: ScheduleName = field(
        default="cosine",
        metadata=option(key=Key(text="Course of the step size within an iteration.", note="{choices}")),
    )
    warmup: float = field(default=0.0, metadata=option(least=0, below=1, key=Key()))
    clip_norm: float | None = field(
        default=None,
        metadata=option(
            above=0,
            infinite=True,
            key=Key(example="1.0", note="largest norm of the gradient; inf for none"),
        ),
    )
    ema: float | None = field(
        default=None,
        metadata=option(
            above=0, below=1, key=Key(example="0.999", note="keep a running average of the weights")
        ),
    )
    val: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    metric: str | None = field(default=None, metadata=option(metavar="TEXT", place="reads"))
    patience: int | None = field(
        default=None,
        metadata=option(
            least=1,
            key=Key(
                text="With ``best``: epochs without a better score after which an iteration's training ends.",
                example="3",
                note="epochs without a better one after which it is enough",
            ),
        ),
    )
    minutes: float | None = field(default=None, metadata=option(above=0))
    original: Model | str | None = field(default=None, metadata=option(place="reads"))
    unfold: Unfold = field(
        default="auto",
        metadata=option(key=Key(note="put folded BatchNormalization back while training: {choices}")),
    )
    engine: EngineName = field(
        default="auto", metadata=option(key=Key(note="{choices}: engine of the steps"))
    )
    checkpoint: str | Path | None = field(default=None, metadata=option(place="writes"))
    checkpoint_every: int = field(
        default=200,
        metadata=option(least=1, key=Key(example="200", note="steps; a killed run goes on from the last")),
    )
    resume: bool = False

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the weights are numbers."""
        super().requires(given)
        check_fixed_tensors(given.model)
        if self.patience is not None and self.val is None:
            raise UsageError("patience is a number of epochs, and is judged on held-back data", "give `val`")
        asks = asks_teacher(self.loss)
        if self._teaches is None and asks:
            raise UsageError(f"the loss '{self.loss}' needs a teacher", "give the model before pruning")
        if self.teacher is not None and asks is False:
            raise UsageError(
                f"the loss '{self.loss}' does not ask the teacher", "'distill' does: give that, or no teacher"
            )

    def run(self, given: PassResult) -> PassResult:
        """Put the models that are compared into one basis, shrink, train, put the weights back."""
        step = replace(self, teacher=self._teaches)
        return replace(step, **step._in_basis_of(given.model))._tuned(given)

    @property
    def _teaches(self) -> Model | str | None:
        """The teacher: the original, where the loss asks for one and no other is given."""
        return self.original if self.teacher is None and asks_teacher(self.loss) else self.teacher

    def _in_basis_of(self, model: Model) -> dict[str, Any]:
        """Return the models whose tensors are compared with those of the student, in its basis.

        Raises:
            PlanError: One is in another basis, or is another model.
        """
        compared = {"original": self.original, "teacher": self.teacher if self.features else None}
        found = {name: _loaded(given) for name, given in compared.items()}
        return {name: in_basis_of(m, model, seed=self.seed) for name, m in found.items() if m is not None}

    def _tuned(self, given: PassResult) -> PassResult:
        channels, removed = removed_channels(given.model, stored_plan(given.model))
        dense = fed_as_before(channels, removed)
        rescaled = rescaled_constants(channels, removed, dense)
        _require_each_once(rescaled, dense)
        session = Session(dense.proto, threads=self.threads)
        data = self._drawn(open_data(self.data, session.inputs, session.outputs))
        unfolded = self._unfold(dense, data, channels, removed)
        val = open_data(self.val, session.inputs, session.outputs) if self.val is not None else None
        checkpoints = self._checkpoints(given.model, data)
        exam = self._exam(unfolded.model.copy(), val, checkpoints) if val is not None else None
        if exam is not None:
            exam.judge_given(dense)
        teacher = self._teacher(channels, removed)
        if teacher is not None:
            teacher.remember(data)
        masks = dense_masks(channels, removed, rescaled)
        weights, facts = self._train(unfolded.model, data, teacher, exam, checkpoints, masks)
        tuned = channels.model.copy()
        if exam is None or exam.best_epoch:
            _put_back(channels, tuned, removed, _unscaled(unfolded.folded(weights), rescaled))
        facts |= {"unfolded": len(unfolded.folds)} | (exam.facts() if exam else {})
        result = sparse_in_own_graph(given.model, channels, removed, tuned)
        if exam is None or exam.best_epoch:
            trained(result)
        return PassResult(result, True, FinetuneReport(**facts), given.analysis)

    def _drawn(self, data: Dataset) -> Dataset:
        """Return the data, or the samples that are drawn of it."""
        count = None if self.samples is None else data.count()
        if self.samples is None or count is None or self.samples >= count:
            return data
        return data.chosen(np.random.default_rng([self.seed, 2]).permutation(count) < self.samples)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The tuned model is valid, and the channels of its plan are still zero."""
        super().ensures(given, result)
        plan = stored_plan(result.model)
        if plan is not None:
            check_zero(planned_channels(result.model, plan), plan.removed)
        check_kept(given.model, result.model)

    def settings(self) -> TrainSettings:
        """Return the options of the training engine."""
        own = {option.name for option in fields(TrainSettings)} & {option.name for option in fields(self)}
        chosen = {name: getattr(self, name) for name in own - {"class_weights", "features"}}
        weights = None if self.class_weights is None else tuple(self.class_weights)
        own_settings: dict[str, Any] = {"class_weights": weights, "features": tuple(self.features)}
        own_settings |= {"learning_rate": self.lr, "meaning": meaning_of(self.metric)}
        return TrainSettings(**own_settings, **chosen)

    def _peak(self, student: Model) -> float:
        return default_step_size(student.proto, self.optimizer) if self.lr is None else self.lr

    def _train(
        self,
        student: Model,
        data: Dataset,
        teacher: Teacher | None,
        exam: Validation | None,
        checkpoints: Checkpoints | None,
        masks: Mapping[str, Array],
    ) -> tuple[Mapping[str, Array], dict[str, Any]]:
        """Train; return the weights to keep and the facts for the report."""

        def batches(epoch: int) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
            for batch in data.batches(self.batch_size, shuffle=True, seed=self.seed, epoch=epoch):
                yield batch.inputs, batch.targets | (teacher.targets(batch) if teacher else {})

        steps = -(-data.count() // (self.batch_size * self.accumulate)) * self.epochs
        limit = EpochLimit(exam, self.minutes)
        with task("finetune", total=steps) as progress:
            result = train(
                student.proto,
                batches,
                settings=replace(self.settings(), learning_rate=self._peak(student)),
                total_steps=steps,
                masks=masks,
                on_step=lambda report: _show(progress, report),
                on_epoch=limit,
                checkpoints=checkpoints,
                time_gone=limit.part,
            )
        facts = {
            "losses": list(result.losses),
            "steps": result.steps,
            "steps_failed": result.went_back,
            "training_s": result.seconds,
            "step_s": result.step_s,
            "engine": result.engine,
        }
        return (exam.best if exam else result.weights), facts

    def _exam(self, student: Model, val: Dataset, checkpoints: Checkpoints | None) -> Validation:
        metric = metric_for(self.loss, self.metric)
        reference = self.original if self.teacher is None else self.teacher
        whole = _loaded(reference) if metric.uses_baseline else None
        teacher = Session(whole.proto, threads=self.threads) if whole is not None else None
        baseline = baseline_for(metric, teacher, val)
        return Validation(student, val, metric, baseline, self.threads, self.patience, checkpoints)

    def _teacher(self, channels: Channels, removed: Removed) -> Teacher | None:
        """Open the teacher; its features are restricted to the channels kept in the student."""
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
        cuts, statistics = channels.cuts(channels.kept(removed)), {}
        for name, found in whole.items():
            bias = biases.get(name, "")
            if bias and len(found[0]) == len(channels.model.array(bias)):
                kept = cuts.get(bias, {}).get(0, slice(None))
                mean, deviation = (channels.put_in_order(bias, a)[kept] for a in found)
                statistics[name] = (mean, deviation)
        return unfold(student, own, {} if near else statistics)

    def _statistics(
        self, student: Model, names: Collection[str], data: Dataset, noted: Origin | None
    ) -> tuple[Mapping[str, tuple[Array, Array]], bool]:
        """Return means and deviations of the original by tensor, and whether the student is near it."""
        original = _loaded(self.teacher if self.original is None else self.original)
        if original is not None and basis_of(original.metadata()) != basis_of(student.metadata()):
            original = None  # a teacher, whose channels are others
        if original is None:
            return (noted.statistics, noted.near) if noted else ({}, False)
        made = {name for node in original.nodes for name in node.output}
        how: dict[str, Any] = {"seed": self.seed, "threads": self.threads}
        found = moments_of(original, [n for n in names if n in made], data, **how)
        near = distance(student, original, data, **how) < NEAR
        return {name: (m.mean, np.sqrt(m.variance)) for name, m in found.items()}, near

    def _checkpoints(self, model: Model, data: Dataset) -> Checkpoints | None:
        """Return the checkpoints: their file, their interval and the identity of this training."""
        if self.checkpoint is None:
            if self.resume:
                raise UsageError("there is no checkpoint to go on from", "name the file")
            return None
        aside = {"data", "val", "teacher", "original", "checkpoint", "resume", "minutes"}
        identity = {o.name: getattr(self, o.name) for o in fields(self) if o.name not in aside}
        models = {"model": model, "teacher": _loaded(self.teacher), "original": _loaded(self.original)}
        identity |= {name: _digest(given) for name, given in models.items() if given is not None}
        # Reading all samples may take long, and a callable may yield other samples at each call.
        known = data.samples is not None
        identity["data"] = [data.samples, data.take(_TOLD_BY).digest()] if known else data.name
        return Checkpoints(Path(self.checkpoint), self.checkpoint_every, identity, self.resume)


def _loaded(model: Model | str | None) -> Model | None:
    return load(model) if isinstance(model, str) else model


def _digest(model: Model) -> str:
    return hashlib.sha256(load_all(model.proto).SerializeToString(deterministic=True)).hexdigest()


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
    """Divide trained multiples of constants by their factors, to give the constants of the whole network."""
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
