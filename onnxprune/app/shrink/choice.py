"""The recipe that suits a model and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.app.recipe import Recipe
from onnxprune.errors import UsageError
from onnxprune.evaluate.data import LABELS, Dataset, open_data
from onnxprune.ir import Model
from onnxprune.runtime import Session, TensorSpec
from onnxprune.runtime.backends import TIMEOUT_S

HOLD_BACK = 0.2
"""The part of the data that judges where none is given for that."""
ANA_SAMPLES, REPAIR_SAMPLES = 512, 512
RISING = (0.3, 0.5, 0.65, 0.8)
"""Reductions that are tried, one from the other, where the quality is the limit."""
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Wanted:
    """The options of `shrink`.

    Attributes:
        model: The model's file.
        output: Where the result goes.
        data: Samples: what `finetune` takes.
        val: Samples to judge by; by default a part of the others, which is not trained on.
        reductions: The budget by kind; empty where `max_drop` is the limit.
        max_drop: How much worse than the original the result may be, in the metric's unit.
        minutes: How long it may take.
        metric: The metric; by default one that suits model and data.
        exclude: Globs of what is left alone.
        only: Globs of what is pruned, and nothing else.
        allow_inexact: Whether axes that the network normalises over are opened.
        equal_layers: Whether all layers keep as many along each axis that `open_io` opens.
        seed: Of everything that is drawn.
        threads: Threads to compute with.
        shapes: Full shapes of inputs, by name.
        dims: Sizes of open axes, by name.
        open_io: Globs of inputs and outputs whose fixed axes may shrink.
        latency_backend: Runtime or device on which latency is measured; by default onnxruntime.
        latency_timeout: Seconds that one call of a command may take that measures latency.
    """

    model: str
    output: str
    data: str
    val: str | None = None
    reductions: Mapping[str, float] = field(default_factory=dict)
    max_drop: float | None = None
    minutes: float = 10.0
    metric: str | None = None
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    allow_inexact: bool = False
    equal_layers: bool = False
    seed: int = 0
    threads: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    open_io: tuple[str, ...] = ()
    latency_backend: str | None = None
    latency_timeout: float = TIMEOUT_S

    @property
    def groups(self) -> dict[str, Any]:
        """The options that decide which channels may go, by the names they have in `Prune`."""
        names = ("exclude", "only", "allow_inexact", "equal_layers")
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
        labelled: Whether the samples carry labels.
        classes: Whether an output can be read as scores of classes.
        convolutional: Whether the model has convolutions.
        samples: How many samples there are; ``None`` where nobody knows before going through them.
    """

    labelled: bool
    classes: bool
    convolutional: bool
    samples: int | None

    @classmethod
    def on(cls, model: Model, data: str) -> Outlook:
        """Look at a model and at the first of its samples."""
        session = Session(model.proto)
        dataset = open_data(data, session.inputs, session.outputs)
        return cls(
            labelled=LABELS in _first(dataset),
            classes=any(_scores(o) for o in session.outputs),
            convolutional=any(n.op_type in _CONVOLUTIONS for n in model.nodes),
            samples=dataset.samples,
        )

    @property
    def metric(self) -> str:
        """The metric that suits."""
        return "top1" if self.labelled else ("agreement" if self.classes else "cosine")

    @property
    def loss(self) -> str:
        """The loss that suits."""
        return "cross-entropy" if self.labelled else "distill"


def recipe_for(wanted: Wanted, outlook: Outlook, epochs: int, measured: bool) -> Recipe:
    """Return the recipe.

    Args:
        wanted: The options.
        outlook: What was found out.
        epochs: How long to train.
        measured: Whether there is time to measure how much each group can lose.

    Raises:
        UsageError: There is no budget, or more than one.
    """
    if len(wanted.reductions) + (wanted.max_drop is not None and not wanted.reductions) != 1:
        raise UsageError(
            "say how much to remove, once",
            "give one of --reduce-macs, --reduce-params, --reduce-size, --reduce-latency, or --max-drop",
        )
    kind, amount = next(iter(wanted.reductions.items()), ("macs", RISING[-1]))
    rising = {"reductions": RISING} if not wanted.reductions else {"iterations": 1}
    data: dict[str, Any] = {"train": wanted.data, "val": wanted.val}
    data |= {} if wanted.val else {"hold_back": HOLD_BACK}
    tuning: dict[str, Any] = {"loss": outlook.loss, "epochs": epochs, "patience": 3, "optimizer": "adamw"}
    tuning |= {"lr": 1e-3 if outlook.convolutional else 2e-4, "warmup": 0.05, "batch_size": 32}
    return Recipe.model_validate(
        {
            "model": str(Path(wanted.model).resolve()),
            "folder": str(wanted.folder),
            "metric": wanted.metric or outlook.metric,
            "seed": wanted.seed,
            "threads": wanted.threads,
            "shapes": dict(wanted.shapes),
            "dims": dict(wanted.dims),
            "open_io": wanted.open_io,
            "data": data,
            "budget": {f"reduce_{kind}": amount},
            "schedule": rising,
            "ana": {"enabled": measured, "samples": ANA_SAMPLES, "repeat": False},
            "prune": wanted.groups,
            "recover": {"samples": REPAIR_SAMPLES},
            "finetune": tuning,
            "bench": {"backend": wanted.latency_backend, "timeout": wanted.latency_timeout},
            "stop": {"max_drop": wanted.max_drop, "retries": 0 if wanted.reductions else 1},
        }
    )


def _first(data: Dataset) -> Mapping[str, Any]:
    return next(iter(data.batches(1))).targets


def _scores(output: TensorSpec) -> bool:
    """Return whether an output can be read as scores of classes: one number a class, by sample."""
    return output.dtype.kind == "f" and len(output.shape) == 2 and output.shape[1] != 1
