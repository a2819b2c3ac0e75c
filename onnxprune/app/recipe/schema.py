"""The sections and keys of a recipe.

Every key has a place in one of the sections below, a type and, mostly, a default. What the docstrings say of
them is also what the documentation says.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from onnxprune.errors import OnnxpruneError, UsageError
from onnxprune.runtime.backends import TIMEOUT_S, check_backend
from onnxprune.scoring.criteria import check_criterion, looks_at_data
from onnxprune.train.settings import parse_loss


def _in_32_bits(count: int) -> int:
    if count >= 1 << 31:
        raise ValueError("it should be less than 2147483648")
    return count


Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1), AfterValidator(_in_32_bits)]


class Section(BaseModel):
    """A table of the file; keys nobody knows are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(Section):
    """Sources of samples: ``.npz`` files, folders of them, ``module:callable``.

    Attributes:
        train: What is trained on.
        val: What every iteration is judged by.
        hold_back: Instead of it: so much of the training data judges, and is not trained on.
        calibration: What the analysis and the recovery look at; the training data by default.
        test: What only the original and the result are judged by, at the very end.
        limit: Only the first so many samples of each: to try a recipe out.
    """

    train: str
    val: str | None = None
    hold_back: Fraction | None = None
    calibration: str | None = None
    test: str | None = None
    limit: Count | None = None

    @model_validator(mode="after")
    def _judged(self) -> DataSection:
        if (self.val is None) == (self.hold_back is None):
            raise ValueError("give val, or hold_back")
        return self


class BudgetSection(Section):
    """The reduction, as a fraction of the cost of the original model: one of these.

    Attributes:
        reduce_macs: Of the multiply-accumulates.
        reduce_params: Of the parameters.
        reduce_size: Of the bytes of the file.
        reduce_latency: Of the time a run takes, measured as ``[bench]`` says.
        reduce_channels: Of the prunable channels.
    """

    reduce_macs: Fraction | None = None
    reduce_params: Fraction | None = None
    reduce_size: Fraction | None = None
    reduce_latency: Fraction | None = None
    reduce_channels: Fraction | None = None

    @model_validator(mode="after")
    def _one(self) -> BudgetSection:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def of(self) -> str:
        """The reduced cost: ``macs``, ``params``, ``size``, ``latency`` or ``channels``."""
        return next(iter(self.model_dump(exclude_none=True))).removeprefix("reduce_")

    @property
    def target(self) -> float:
        """The fraction of it to be removed."""
        return float(next(iter(self.model_dump(exclude_none=True).values())))


class ScheduleSection(Section):
    """Schedule of the reduction over the iterations.

    Attributes:
        iterations: How often to prune and train.
        rise: ``linear``: the same step each time. ``cubic``: large steps first, small ones last, after Zhu
            and Gupta, "To prune, or not to prune" (2017), equation 1.
        reductions: The reduction of every iteration instead of the two above.
    """

    iterations: Count = 4
    rise: Literal["linear", "cubic"] = "linear"
    reductions: tuple[Fraction, ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> ScheduleSection:
        if any(b <= a for a, b in zip(self.reductions, self.reductions[1:], strict=False)):
            raise ValueError("reductions must rise from one to the next")
        return self

    def planned(self, target: float) -> tuple[float, ...]:
        """Return the reduction of every iteration; the last is the target."""
        if self.reductions:
            return self.reductions
        power, n = {"linear": 1, "cubic": 3}[self.rise], self.iterations
        return (*(round(target * (1 - (1 - k / n) ** power), 6) for k in range(1, n)), target)


class AnaSection(Section):
    """Sensitivity analysis before every pruning; see the command `ana`.

    Attributes:
        enabled: Whether it is.
        repeat: Whether it is measured again before every pruning. If not, what was found out about the
            original decides all widths, and only which channels go is decided anew.
        metric: What is measured; also what plans are tried by where ``prune.strategy`` is ``search``.
        ratios: Fractions of a group to remove.
        samples: Only the first so many samples of the calibration data; also for all that pruning measures.
        method: ``measured``, or ``fast``: all curves at once, estimated from one pass through the samples.
        mode: ``exact``, or ``adaptive``: ratios and samples only where they tell something new.
        confidence: ``adaptive``: how sure an interval is to hold the value over all samples.
        precision: ``adaptive``: how narrow that of a plan has to be, half of it as a fraction of its drop.
    """

    enabled: bool = True
    repeat: bool = True
    metric: str = "kl"
    ratios: tuple[Fraction, ...] = (0.25, 0.5, 0.75)
    samples: Count | None = 512
    method: Literal["measured", "fast"] = "measured"
    mode: Literal["exact", "adaptive"] = "exact"
    confidence: Fraction = 0.95
    precision: Annotated[float, Field(gt=0)] = 0.1


class PruneSection(Section):
    """Selection of channels; see the command `prune`.

    Attributes:
        strategy: How the reduction is shared out among the groups; by default ``sensitivity`` where it is
            measured, else ``global``.
        criterion: What ranks the channels within a group. Those that look at samples are given the
            calibration data.
        evaluations: With ``search``: how many plans are tried.
        round_to: What is kept of a group is a multiple of this; by default of 8, and of less in small groups.
        max_ratio: The most that may go of a group.
        keep_at_least: Fewest channels that stay, by glob over group names.
        keep_at_most: Most channels that stay, likewise.
        exclude: Globs of groups, nodes or tensors to leave alone.
        only: Globs of those to prune and no others.
        allow_inexact: Open axes that the network normalises over.
        equal_layers: Keep as many in every layer along each axis that ``open_io`` opens.
    """

    strategy: Literal["uniform", "global", "sensitivity", "search"] | None = None
    criterion: str = "obs"
    evaluations: Count = 100
    round_to: Count | None = None
    max_ratio: Fraction = 0.9
    keep_at_least: dict[str, Count] = {}
    keep_at_most: dict[str, Count] = {}
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    allow_inexact: bool = False
    equal_layers: bool = False

    @field_validator("criterion")
    @classmethod
    def _known(cls, criterion: str) -> str:
        try:
            check_criterion(criterion)
        except OnnxpruneError as error:
            raise ValueError(f"{error}; {error.hint}") from error
        return criterion

    @property
    def looks_at_data(self) -> bool:
        """Return whether it takes samples to choose channels."""
        return looks_at_data(self.criterion) or self.strategy == "search"


class RecoverSection(Section):
    """Recovery in closed form, before training; see the command `recover`.

    Attributes:
        enabled: Whether it is.
        methods: How.
        samples: How many samples of the calibration data.
    """

    enabled: bool = True
    methods: tuple[Literal["least-squares", "bias", "scale", "batchnorm"], ...] = ("least-squares",)
    samples: Annotated[int, Field(ge=2)] = 512


class FinetuneSection(Section):
    """Training of the pruned model; see the command `finetune`.

    Attributes:
        loss: What is minimised; those that ask a teacher ask the original.
        features: Tensors that the loss ``features`` makes like the original's.
        class_weights: A factor for each class in ``cross-entropy``.
        ignore_index: The label that ``cross-entropy`` does not count.
        epochs: Passes over the training data in every iteration; 0 for no training at all.
        last_epochs: As many in the iteration that reaches the target; ``epochs`` by default.
        batch_size: Samples a batch.
        accumulate: Batches a step.
        optimizer: ``sgd`` with momentum, or ``adamw``.
        lr: Peak step size; by default 0.02 for ``sgd``, 0.0005 for ``adamw``.
        weight_decay: How fast weights shrink by themselves.
        schedule: How the step size falls within an iteration.
        early_schedule: The same for all iterations but the one that reaches the target; ``schedule`` by
            default. ``constant`` keeps it high until what is trained is what will be kept.
        warmup: Fraction of an iteration's steps over which the step size first rises.
        clip_norm: Largest norm of the gradient, ``inf`` for none; by default 1 for ``sgd``.
        ema: Decay of a running average of the weights, which is then what is kept.
        keep: ``best``: the epoch that is best on the validation data. ``last``: the last one, so that the
            validation data has no say in which weights are kept.
        patience: With ``best``: epochs without a better score after which an iteration's training ends.
        unfold: Whether BatchNormalization that was folded away is put back while training.
        checkpoint_every: Steps from one checkpoint to the next; a killed run goes on from the last.
        engine: What computes the steps: ``stock``, the onnxruntime that is there; ``ort-training``, see
            `setup-training`; or ``auto``, the faster one that can train the model.
    """

    loss: str = "cross-entropy"
    features: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | None = None
    ignore_index: int | None = None
    epochs: Annotated[int, Field(ge=0)] = 3
    last_epochs: Annotated[int, Field(ge=0)] | None = None
    batch_size: Count = 32
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    early_schedule: Literal["cosine", "linear", "step", "constant"] | None = None
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    keep: Literal["best", "last"] = "best"
    patience: Count | None = None
    unfold: Literal["auto", "always", "never"] = "auto"
    checkpoint_every: Count = 200
    engine: Literal["auto", "stock", "ort-training"] = "auto"

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str) -> str:
        try:
            parse_loss(loss)
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
        return loss


class StopSection(Section):
    """When to stop before the schedule ends.

    Attributes:
        max_drop: How much worse than the original an iteration may be, in the metric's unit; one that is
            worse, by more than the standard error of its difference from the original sample by sample, is
            dropped, and the result is the last one before it. Where there is none before it the result is
            the one of the best score, and `run` ends with exit code 1.
        floor: The same as an absolute value of the metric.
        early_drop: How much worse an iteration may be that another one follows; by default no more than the
            two above allow. It goes with ``finetune.early_schedule``: what trains with large steps to the end
            is not yet as good as it will be.
        retries: How often a dropped iteration is tried again with half the step.
    """

    max_drop: Annotated[float, Field(ge=0)] | None = None
    floor: float | None = None
    early_drop: Annotated[float, Field(ge=0)] | None = None
    retries: Annotated[int, Field(ge=0)] = 0


class CompareSection(Section):
    """Comparisons in the report.

    Attributes:
        one_shot: The same reduction at once, trained for as many epochs as all iterations together.
    """

    one_shot: bool = False


class LogSection(Section):
    """Tracking services that receive the figures of a run.

    Attributes:
        tensorboard: A folder for event files.
        mlflow: Address of a tracking server of MLflow, such as ``http://localhost:5000``.
        experiment: The experiment there.
    """

    tensorboard: str | None = None
    mlflow: str | None = None
    experiment: str = "onnxprune"


class BenchSection(Section):
    """Latency measurement of the result; see the command `bench`.

    Attributes:
        runs: Rounds in which all models are measured in turn.
        batch_size: Samples a run.
        threads: To run with.
        backend: Runtime or device that is timed, ``reduce_latency`` included: ``onnxruntime:PROVIDER``,
            ``openvino``, ``tensorrt``, ``module:callable`` or ``cmd:COMMAND {model}``.
        timeout: Seconds that one call of a command may take.
    """

    runs: Count = 30
    batch_size: Count = 1
    threads: Count | None = 1
    backend: str | None = None
    timeout: Annotated[float, Field(gt=0)] = TIMEOUT_S

    @field_validator("backend")
    @classmethod
    def _known(cls, backend: str | None) -> str | None:
        try:
            if backend is not None:
                check_backend(backend)
        except OnnxpruneError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
        return backend


class Recipe(Section):
    """The whole file.

    Attributes:
        model: The trained network.
        folder: Where everything goes; beside the recipe and named like it by default.
        metric: What the models are judged by: ``top1``, ``agreement``, ``module:callable`` …
        seed: Of everything that draws numbers.
        threads: How many to compute with. Part of the result: another number of threads rounds otherwise. By
            default the processors of the machine that first starts the run.
        shapes: Full shapes of inputs to analyse with, where the file leaves axes open.
        dims: Sizes to analyse with, by the name of an open axis of the inputs.
        open_io: Globs of inputs and outputs whose fixed axes may shrink, such as ``past*`` of caches.
    """

    model: str
    folder: str | None = None
    metric: str = "top1"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Count | None = None
    shapes: dict[str, tuple[Count, ...]] = {}
    dims: dict[str, Count] = {}
    open_io: tuple[str, ...] = ()
    data: DataSection
    budget: BudgetSection
    schedule: ScheduleSection = ScheduleSection()
    ana: AnaSection = AnaSection()
    prune: PruneSection = PruneSection()
    recover: RecoverSection = RecoverSection()
    finetune: FinetuneSection = FinetuneSection()
    stop: StopSection = StopSection()
    compare: CompareSection = CompareSection()
    bench: BenchSection = BenchSection()
    log: LogSection = LogSection()

    @model_validator(mode="after")
    def _same_target(self) -> Recipe:
        listed = self.schedule.reductions
        if listed and listed[-1] != self.budget.target:
            raise ValueError("the last of schedule.reductions must be the budget")
        return self
