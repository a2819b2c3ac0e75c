"""The recipe that suits a model and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.app.recipe import Recipe
from onnxprune.errors import UsageError
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.suggestion import Suggestion, suggest
from onnxprune.ir import Model
from onnxprune.passes.basis_choice import RotateChoice
from onnxprune.runtime import Session
from onnxprune.support.common_options import (
    EqualLayers,
    GroupSelection,
    InexactAxes,
    InputSizes,
    LatencyTableOptions,
    Reductions,
    Seeded,
    Threaded,
)
from onnxprune.support.option_fields import one_of, option
from onnxprune.train.step_sizes import holds_attention

HOLD_BACK = 0.2
"""The part of the data that judges where none is given for that."""
ANA_SAMPLES, REPAIR_SAMPLES = 512, 512
RISING = (0.3, 0.5, 0.65, 0.8)
"""Reductions that are tried, one from the other, where the quality is the limit."""
PATIENCE = 10
"""Epochs without a better score after which training ends, or half of all: the last ones gain most."""
_STEPS: Mapping[str, Any] = {"optimizer": "adamw", "lr": 1e-3}
_STEPS_ATTENTION: Mapping[str, Any] = {"optimizer": "sgd", "lr": 0.02}
_STEPS_LABELS: Mapping[str, Any] = {"optimizer": "adamw", "lr": 5e-4}
"""Optimisers with their peak step sizes: without attention or normalisation over the last axis, with them,
and with them where labels are learnt from (docs/choosing.md, "Training, measured")."""


@dataclass(frozen=True)
class ShrinkOptions(
    Reductions, GroupSelection, InexactAxes, EqualLayers, LatencyTableOptions, Seeded, Threaded, InputSizes
):
    """The options of `shrink`.

    Attributes:
        model: The model's file.
        output: File to write the result to.
        data: Samples, in a form that `finetune` takes.
        val: Data to judge by; by default a fifth of ``data``, which is then not trained on.
        max_drop: Remove as much as possible with a drop of the metric of no more than this.
        minutes: Time limit of the whole job, in minutes.
        metric: By default one that suits model and data.
        rotate: Prune the rotated model (see `rotate`): ``always``, ``never``, or ``auto``, if its repaired
            plan is better on the data.
    """

    model: str = field(metadata=option(flag=""))
    output: str = field(metadata=option(flag=""))
    data: str = field(metadata=option(flag=""))
    val: str | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    max_drop: float | None = field(default=None, metadata=option(metavar="D", least=0))
    minutes: float = field(default=10.0, metadata=option(least=0))
    metric: str | None = field(default=None, metadata=option(metavar="TEXT", place="reads"))
    rotate: RotateChoice = "auto"

    @property
    def groups(self) -> dict[str, Any]:
        """The options that decide which channels may go, by the names they have in `Prune`."""
        names = ("exclude", "only", "allow_inexact", "equal_layers", "rotate")
        return {name: getattr(self, name) for name in names}

    @property
    def folder(self) -> Path:
        """The work folder, beside the result."""
        place = Path(self.output).resolve()
        return place.with_name(f"{place.name}.work")


@dataclass(frozen=True)
class Outlook:
    """Findings about a model and its data.

    Attributes:
        suited: The metric and the loss that suit them.
        steps: Optimiser of the training and its peak step size.
        samples: Number of samples; ``None`` where it is not known before going through them.
    """

    suited: Suggestion
    steps: Mapping[str, Any]
    samples: int | None

    @classmethod
    def on(cls, model: Model, data: str) -> Outlook:
        """Look at a model and at the first of its samples."""
        session = Session(model.proto)
        dataset = open_data(data, session.inputs, session.outputs)
        suited = suggest(model, session, dataset)
        with_attention = _STEPS_LABELS if suited.labelled else _STEPS_ATTENTION
        return cls(
            suited=suited,
            steps=with_attention if holds_attention(model.proto) else _STEPS,
            samples=dataset.samples,
        )

    @property
    def labelled(self) -> bool:
        """True if training learns from labels."""
        return self.suited.labelled

    @property
    def metric(self) -> str:
        """The metric that suits."""
        return self.suited.metric

    @property
    def loss(self) -> str:
        """The loss that suits."""
        return self.suited.loss


def recipe_for(options: ShrinkOptions, outlook: Outlook, epochs: int, measured: bool) -> Recipe:
    """Return the recipe.

    Args:
        options: The options.
        outlook: Findings about the model and the data.
        epochs: Epochs of training.
        measured: True if there is time to measure how much each group can lose.

    Raises:
        UsageError: There is no budget, or more than one.
    """
    reductions = options.reductions()
    if len(reductions) + (options.max_drop is not None and not reductions) != 1:
        raise UsageError("`shrink` takes one budget", f"give one of {one_of(Reductions)}, or `max_drop`")
    kind, amount = next(iter(reductions.items()), ("macs", RISING[-1]))
    rising = {"reductions": RISING} if not reductions else {"iterations": 1}
    data: dict[str, Any] = {"train": options.data, "val": options.val}
    data |= {} if options.val else {"hold_back": HOLD_BACK}
    tuning: dict[str, Any] = {"loss": outlook.loss, "epochs": epochs, "patience": max(PATIENCE, epochs // 2)}
    tuning |= {**outlook.steps, "warmup": 0.05, "batch_size": 32}
    return Recipe.model_validate(
        {
            "model": str(Path(options.model).resolve()),
            "folder": str(options.folder),
            "metric": options.metric or outlook.metric,
            "seed": options.seed,
            "threads": options.threads,
            "shapes": dict(options.input_shapes),
            "dims": dict(options.dims),
            "open_io": options.open_io,
            "data": data,
            "budget": {f"reduce_{kind}": amount},
            "schedule": rising,
            "ana": {
                "enabled": measured,
                "metric": outlook.suited.curves,
                "samples": ANA_SAMPLES,
                "repeat": False,
            },
            "prune": options.groups,
            "recover": {"samples": REPAIR_SAMPLES},
            "finetune": tuning,
            "bench": {
                "backend": options.latency_backend,
                "timeout": options.latency_timeout,
                "table": str(options.latency_table.resolve()) if options.latency_table else None,
            },
            "stop": {"max_drop": options.max_drop, "retries": 0 if reductions else 1},
        }
    )
