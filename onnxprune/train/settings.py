"""Settings and results of a training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnxprune.errors import UsageError
from onnxprune.support.callables import is_reference
from onnxprune.train.wire import Array

Loss: TypeAlias = Literal["cross-entropy", "mse", "l1", "bce", "distill", "cosine", "features"]
OptimizerName: TypeAlias = Literal["sgd", "adamw"]
ScheduleName: TypeAlias = Literal["cosine", "linear", "step", "constant"]

Meaning: TypeAlias = Literal["auto", "classes", "numbers"]
EngineName: TypeAlias = Literal["auto", "stock", "ort-training"]

DEFAULT_LEARNING_RATE: Mapping[str, float] = {"sgd": 0.02, "adamw": 0.0005}
DEFAULT_CLIP_NORM: Mapping[str, float] = {"sgd": 1.0, "adamw": math.inf}

_TERM = re.compile(r"(?:(?P<weight>[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*\*\s*)?(?P<name>\S.*)")


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss that is a sum.

    Attributes:
        name: A loss of the table, an ONNX file, or `module:callable`.
        weight: Factor it is multiplied by.
    """

    name: str
    weight: float = 1.0


def parse_loss(text: str) -> tuple[LossTerm, ...]:
    """Read a loss: a name, or a weighted sum such as `0.3*cross-entropy + 0.7*distill`.

    Raises:
        UsageError: It is neither.
    """
    terms = []
    for part in re.split(r"\s*\+\s+|\s+\+\s*", text.strip()):
        found = _TERM.fullmatch(part)
        try:
            weight = float(found["weight"] or 1.0) if found else math.nan
        except ValueError:
            weight = math.nan
        known = found is not None and _is_loss(found["name"])
        if not known or not 0 < weight < math.inf:
            names = ", ".join(get_args(Loss))
            raise UsageError(
                f"there is no loss {part!r}",
                f"choose one of {names}, an .onnx file or module:callable; or a sum: 0.5*mse + distill",
            )
        assert found is not None
        terms.append(LossTerm(found["name"], weight))
    return tuple(terms)


def _is_loss(name: str) -> bool:
    return name in get_args(Loss) or name.endswith(".onnx") or is_reference(name)


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training.

    Attributes:
        loss: Loss to minimise: a name from `onnxprune.train.losses`, an ONNX file or `module:callable`
            (see `onnxprune.train.own_loss`), or a weighted sum of such, see `parse_loss`.
        class_weights: Factors of the classes in `cross-entropy`; the mean is over the factors then.
        ignore_index: Label that `cross-entropy` leaves out.
        features: Tensors that the loss `features` makes like the teacher's.
        optimizer: `sgd` (momentum 0.9) or `adamw` (betas 0.9 and 0.999).
        epochs: Passes over the training data.
        learning_rate: Peak step size; None takes 0.02 for sgd and 0.0005 for adamw.
        weight_decay: Decoupled for adamw, added to the gradient for sgd; on tensors of two or more axes
            only, so biases and normalisation scales are free to stay.
        momentum: Momentum of sgd.
        schedule: Course of the step size from its peak: constant, in a line to zero, along a half cosine
            to zero, or by a tenth after one and after two thirds of the steps.
        warmup: The fraction of all steps over which the step size rises from zero to its peak.
        clip_norm: Largest global norm of the gradient, infinity for no limit; None takes 1 for sgd, whose
            steps are as long as the gradient is, and no limit for adamw.
        accumulate: Batches whose gradients are averaged for one step.
        ema: Decay of a running average of the weights, which training then returns; None for none.
        temperature: Softens teacher and student in the `distill` loss.
        meaning: Meaning of outputs without a final activation for the `distill` loss: scores of classes, or
            numbers; `auto` decides by the graph.
        threads: Threads of the worker; None takes the processors this process may use.
        engine: Engine that computes the steps, see `onnxprune.train.engines`.

    Raises:
        UsageError: A value is out of range.
    """

    loss: str = "cross-entropy"
    class_weights: tuple[float, ...] | None = None
    ignore_index: int | None = None
    features: tuple[str, ...] = ()
    optimizer: OptimizerName = "sgd"
    epochs: int = 1
    learning_rate: float | None = None
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: ScheduleName = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    temperature: float = 4.0
    meaning: Meaning = "auto"
    threads: int | None = None
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        """Refuse options out of their ranges."""
        rules = {
            "epochs must be at least 1": self.epochs >= 1,
            "learning rate must be positive": 0 < self.peak < math.inf,
            "weight decay must not be negative": 0 <= self.weight_decay < math.inf,
            "momentum must be in [0, 1)": 0 <= self.momentum < 1,
            "warm-up must be a fraction in [0, 1)": 0 <= self.warmup < 1,
            "gradient clipping must be positive": self.clip_norm is None or self.clip_norm > 0,
            "at least 1 batch must be accumulated": self.accumulate >= 1,
            "the decay of the average must be in (0, 1)": self.ema is None or 0 < self.ema < 1,
            "temperature must be positive": 0 < self.temperature < math.inf,
            "threads must be at least 1": self.threads is None or self.threads >= 1,
            "the engine is auto, stock or ort-training": self.engine in get_args(EngineName),
        }
        rules["class weights must not be negative"] = all(w >= 0 for w in self.class_weights or ())
        names = {term.name for term in self.terms}
        rules["the loss 'features' and names of features go together"] = ("features" in names) == bool(
            self.features
        )
        for rule, kept in rules.items():
            if not kept:
                raise UsageError(rule, "give another value, or leave the option out")

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """The terms of the loss."""
        return parse_loss(self.loss)

    @property
    def peak(self) -> float:
        """The largest step size of the run."""
        return DEFAULT_LEARNING_RATE[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def largest_norm(self) -> float:
        """The largest global norm of a gradient; infinity for no limit."""
        return DEFAULT_CLIP_NORM[self.optimizer] if self.clip_norm is None else self.clip_norm

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """Step size of one step, counted from 0.

        Steps beyond `total_steps` keep the last value: a loader may yield more than announced.
        """
        warm = round(self.warmup * total_steps)
        if step < warm:
            return self.peak * (step + 1) / (warm + 1)
        progress = min((step - warm) / max(total_steps - warm, 1), 1 - 1 / max(total_steps, 2))
        return self.peak * _DECAY[self.schedule](progress)


_DECAY: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "step": lambda progress: math.pow(0.1, int(3 * progress)),
}


@dataclass(frozen=True)
class StepReport:
    """The record of one step of the optimiser.

    Attributes:
        step: Counted from 1 over the whole run.
        epoch: Counted from 0.
        loss: Mean over the batches of the step, before it is taken.
        learning_rate: Step size used.
        gradient_norm: Global norm of the masked gradient, before clipping.
        samples: Samples in its batches.
        went_back: True if it failed, and the weights went back to an earlier place instead.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    samples: int
    went_back: bool = False


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        weights: The trained tensors and the running statistics of BatchNormalization, by the name, and in
            the type, that they have in the model.
        losses: Mean loss of each epoch.
        steps: Steps taken.
        went_back: Number of those that failed, and halved the step size from there on.
        seconds: Wall time, without the validation done in between.
        step_s: Median wall time of a step, in seconds, without the first one, which takes longer.
        engine: Engine that computed the steps.
    """

    weights: Mapping[str, Array]
    losses: tuple[float, ...]
    steps: int
    went_back: int
    seconds: float
    step_s: float
    engine: str
