"""The sections and keys of a recipe.

Every key has a place in one of the sections below, a type and, mostly, a default. Their docstrings are
the texts of the documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from onnxprune.app.recipe.pass_sections import (
    AnaSection,
    FactorizeSection,
    FinetuneSection,
    PruneSection,
    RecoverSection,
    SparsifySection,
)
from onnxprune.app.recipe.sections import PassSection, Section, keys_of, number
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime.backends import check_backend
from onnxprune.support.common_options import (
    FRACTION,
    LATENCY_TIMEOUT_S,
    Reductions,
)
from onnxprune.support.option_fields import Key, NumberRange

if TYPE_CHECKING:
    Fraction: TypeAlias = float
    Count: TypeAlias = int
else:
    Fraction = number(float, FRACTION)
    Count = number(int, NumberRange(least=1))


class DataSection(Section):
    """Sources of samples: ``.npz`` files, folders of them, ``module:callable``.

    Attributes:
        train: Samples to train on.
        val: Samples that every iteration is judged by.
        hold_back: Instead of ``val``: this fraction of the training data judges, and is not trained on.
        calibration: Samples for the analysis and the recovery; the training data by default.
        test: Samples that only the original and the result are judged by, at the very end.
        limit: Number of samples taken from each: to try a recipe out.
        val_limit: Number of samples that judge, drawn at random once; all by default.
    """

    note: ClassVar[str] = ".npz files, folders of them, or module:callable"

    train: str
    val: str | None = None
    hold_back: Annotated[
        Fraction | None,
        Key(example="0.2", note="instead of val: so much of the training data judges, and is not trained on"),
    ] = None
    calibration: Annotated[
        str | None,
        Key(example='"few.npz"', note="samples for ana and recover; by default the training data"),
    ] = None
    test: Annotated[str | None, Key(example='"test.npz"', note="judged at the very end only")] = None
    limit: Annotated[
        Count | None, Key(example="500", note="only so many samples of each: to try this file out")
    ] = None
    val_limit: Annotated[
        Count | None, Key(example="2000", note="only so many samples judge; drawn at random once")
    ] = None

    @model_validator(mode="after")
    def _judged(self) -> DataSection:
        if (self.val is None) == (self.hold_back is None):
            raise ValueError("give val, or hold_back")
        return self


@keys_of(Reductions)
class BudgetSection(PassSection):
    """The reduction, as a fraction of the cost of the original model: one of these."""

    note: ClassVar[str] = "fraction removed of one of these"

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
        iterations: Number of times to prune and train.
        rise: ``linear``: the same step each time. ``cubic``: large steps first, small ones last, after Zhu
            and Gupta, "To prune, or not to prune" (2017), equation 1.
        reductions: The reduction of every iteration instead of the two above.
    """

    iterations: Count = 4
    rise: Annotated[Literal["linear", "cubic"], Key(note="linear; cubic: large steps first")] = "linear"
    reductions: Annotated[
        tuple[Fraction, ...],
        Key(example="[0.2, 0.4, 0.5]", note="instead of the two above; the last is the budget"),
    ] = ()

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


class VocabularySection(Section):
    """Rows of a vocabulary that stay, after the last iteration; see the command `prune`, ``--keep-rows``.

    Attributes:
        keep_rows: Text file with the numbers of rows that stay.
        most: Number of rows that stay: those that the calibration data picks most often, the listed ones and
            those of special tokens among them.
        min_count: Rows that the calibration data picks at least so often stay, besides the listed ones and
            those of special tokens.
    """

    note: ClassVar[str] = "rows of a vocabulary, once all channels are chosen"

    keep_rows: Annotated[
        str | None, Key(example='"rows.txt"', note="only the rows whose numbers this file lists")
    ] = None
    most: Annotated[Count | None, Key(example="8000", note="so many, the most frequent ones")] = None
    min_count: Annotated[Count | None, Key(example="5", note="those that are picked at least so often")] = (
        None
    )

    @property
    def enabled(self) -> bool:
        """Return whether rows are to go."""
        return self != VocabularySection()


class StopSection(Section):
    """When to stop before the schedule ends.

    Attributes:
        max_drop: Largest loss of an iteration against the original, in the metric's unit; one that is
            worse, by more than the standard error of its difference from the original sample by sample, is
            dropped, and the result is the last one before it. Where there is none before it the result is
            the one of the best score, and `run` ends with exit code 1.
        floor: The same as an absolute value of the metric.
        early_drop: Largest such loss of an iteration that another one follows; by default no more than the
            two above allow. It goes with ``finetune.early_schedule``: weights trained with large steps to the
            end score lower than after the final schedule.
        retries: Number of times a dropped iteration is tried again with half the step.
    """

    max_drop: Annotated[
        Annotated[float, Field(ge=0)] | None,
        Key(note="an iteration worse than the original by more is dropped"),
    ] = None
    floor: Annotated[float | None, Key(example="0.95", note="the same as an absolute value")] = None
    early_drop: Annotated[
        Annotated[float, Field(ge=0)] | None,
        Key(example="0.05", note="of an iteration that another one follows; goes with early_schedule"),
    ] = None
    retries: Annotated[int, Field(ge=0), Key(note="then try again with half the step")] = 0


class CompareSection(Section):
    """Comparisons in the report.

    Attributes:
        one_shot: The same reduction at once, trained for as many epochs as all iterations together.
    """

    one_shot: Annotated[bool, Key(note="true: also prune at once, with as much training, for the report")] = (
        False
    )


class LogSection(Section):
    """Tracking services that receive the figures of a run.

    Attributes:
        tensorboard: A folder for event files.
        mlflow: Address of a tracking server of MLflow, such as ``http://localhost:5000``.
        experiment: The experiment there.
    """

    note: ClassVar[str] = "where else figures go while it runs"

    tensorboard: Annotated[str | None, Key(example='"logs"', note="a folder")] = None
    mlflow: Annotated[str | None, Key(example='"http://localhost:5000"')] = None
    experiment: Annotated[str, Key(note="of MLflow")] = "onnxprune"


class BenchSection(Section):
    """Latency measurement of the result; see the command `bench`.

    Attributes:
        runs: Rounds in which all models are measured in turn.
        batch_size: Samples a run.
        threads: To run with.
        backend: Runtime or device that is timed, ``reduce_latency`` included: ``onnxruntime:PROVIDER``,
            ``openvino``, ``tensorrt``, ``module:callable`` or ``cmd:COMMAND {model}``.
        timeout: Seconds that one call of a command may take.
        table: File with figures of the device, for ``reduce_latency``; see `prune`, ``--latency-table``. By
            default one in the folder of the run.
    """

    runs: Count = 30
    batch_size: Count = 1
    threads: Count | None = 1
    backend: Annotated[
        str | None,
        Key(
            example='"openvino"',
            note='or "cmd:ssh board bench {{model}}", a command that prints milliseconds',
        ),
    ] = None
    timeout: Annotated[
        Annotated[float, Field(gt=0)], Key(example="600", note="seconds that one call of it may take")
    ] = LATENCY_TIMEOUT_S
    table: Annotated[
        str | None,
        Key(example='"latency.json"', note="figures that were made on the device: bench --latency-out"),
    ] = None

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
        folder: Folder of all files of the run; beside the recipe and named like it by default.
        metric: Metric that the models are judged by: ``top1``, ``agreement``, ``detections``,
            ``module:callable`` …
        seed: Seed of all random numbers.
        threads: Threads to compute with. Part of the result: another number of threads rounds otherwise. By
            default the processors of the machine that first starts the run.
        shapes: Full shapes of inputs to analyse with, where the file leaves axes open.
        dims: Sizes to analyse with, by the name of an open axis of the inputs.
        open_io: Globs of inputs and outputs whose fixed axes may shrink, such as ``past*`` of caches.
    """

    model: str
    folder: Annotated[str | None, Key(note="everything goes here; a killed run goes on from here")] = None
    metric: Annotated[
        str,
        Key(note="top1 top5 mse mae; against the original: kl agreement cosine retrieval detections cer; …"),
    ] = "top1"
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[
        Count | None,
        Key(example="2", note="by default the processors of the machine; part of the result"),
    ] = None
    open_io: Annotated[
        tuple[str, ...],
        Key(example='["past*", "present*"]', note="inputs and outputs whose fixed axes may shrink"),
    ] = ()
    shapes: dict[str, tuple[Count, ...]] = Field(default={})
    dims: dict[str, Count] = Field(default={})
    data: DataSection
    budget: BudgetSection
    schedule: ScheduleSection = ScheduleSection()
    factorize: FactorizeSection = FactorizeSection()
    ana: AnaSection = AnaSection()
    prune: PruneSection = PruneSection()
    recover: RecoverSection = RecoverSection()
    finetune: FinetuneSection = FinetuneSection()
    sparsify: SparsifySection = SparsifySection()
    vocabulary: VocabularySection = VocabularySection()
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

    @model_validator(mode="after")
    def _counted(self) -> Recipe:
        if self.factorize.enabled and self.budget.of not in ("macs", "params"):
            raise ValueError(
                f"factorize goes with a budget of MACs or parameters, and the budget is of {self.budget.of}"
            )
        return self
