"""Sections of passes in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from onnxprune.app.recipe.sections import PassSection, keys_of
from onnxprune.decisions.pattern import Pattern
from onnxprune.errors import OnnxpruneError, UsageError
from onnxprune.passes import Ana, Factorize, Finetune, Prune, Recover, Sparsify
from onnxprune.scoring.criteria import check_criterion, looks_at_data
from onnxprune.support.common_options import (
    GroupSelection,
    InexactAxes,
    Reductions,
)
from onnxprune.support.option_fields import Key, option
from onnxprune.train.settings import ScheduleName, parse_loss


@dataclass(frozen=True)
class FactorizeKeys:
    """Keys of the section ``factorize`` that the pass has not.

    Attributes:
        enabled: True to split products with weights before the first iteration; the budget counts from the
            original.
    """

    enabled: bool = field(default=False, metadata=option(key=Key(note="true: before the first iteration")))


@keys_of(Factorize, FactorizeKeys)
class FactorizeSection(PassSection):
    """Products with weights as chains of lower rank, whose channels are then pruned; see `factorize`."""

    note: ClassVar[str] = "products with weights as chains of smaller ones, before any pruning"

    @model_validator(mode="after")
    def _some(self) -> FactorizeSection:
        amounts = ("reduce_macs", "reduce_params", "max_drop", "rank")
        if self.enabled and all(getattr(self, name) in (None, {}) for name in amounts):
            raise ValueError(f"give one of {', '.join(amounts)}")
        return self


@dataclass(frozen=True)
class AnaKeys:
    """Keys of the section ``ana`` that the pass has not.

    Attributes:
        enabled: True to measure sensitivities.
        repeat: True to measure again before every pruning. If false, the first analysis, of the
            original, decides all widths, and only the choice of channels is made anew.
    """

    enabled: bool = True
    repeat: bool = field(default=True, metadata=option(key=Key(note="false: only once, before the first")))


@keys_of(Ana, AnaKeys, without=(GroupSelection, InexactAxes))
class AnaSection(PassSection):
    """Sensitivity analysis before every pruning; see the command `ana`."""

    note: ClassVar[str] = "sensitivity of each group, measured before every pruning"


@keys_of(Prune, without=(Reductions,))
class PruneSection(PassSection):
    """Selection of channels; see the command `prune`."""

    @field_validator("criterion", check_fields=False)
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


@dataclass(frozen=True)
class RecoverKeys:
    """Keys of the section ``recover`` that the pass has not.

    Attributes:
        enabled: True to recover.
    """

    enabled: bool = True


@keys_of(Recover, RecoverKeys)
class RecoverSection(PassSection):
    """Recovery in closed form, before training; see the command `recover`."""

    note: ClassVar[str] = "make up for losses in closed form, before training"


@dataclass(frozen=True)
class FinetuneKeys:
    """Keys of the section ``finetune`` that the pass has not.

    Attributes:
        last_epochs: As many in the iteration that reaches the target; ``epochs`` by default.
        early_schedule: The same for all iterations but the one that reaches the target; ``schedule`` by
            default. ``constant`` keeps it high in all iterations before the one of the target.
        keep: ``best``: the epoch that is best on the validation data. ``last``: the last one, so that the
            validation data has no influence on the weights.
    """

    last_epochs: int | None = field(
        default=None,
        metadata=option(least=0, key=Key(after="epochs", example="10", note="of the last one")),
    )
    early_schedule: ScheduleName | None = field(
        default=None,
        metadata=option(
            key=Key(after="schedule", example='"constant"', note="of all iterations but the last")
        ),
    )
    keep: Literal["best", "last"] = field(
        default="best",
        metadata=option(
            key=Key(
                after="ema",
                note="best: the epoch that is best on val; last: val does not choose the weights",
            )
        ),
    )


@keys_of(Finetune, FinetuneKeys)
class FinetuneSection(PassSection):
    """Training of the pruned model; see the command `finetune`."""

    @field_validator("loss", check_fields=False)
    @classmethod
    def _known(cls, loss: str) -> str:
        try:
            parse_loss(loss)
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
        return loss


@dataclass(frozen=True)
class SparsifyKeys:
    """Keys of the section ``sparsify`` that the pass has not.

    Attributes:
        enabled: True to set elements of weights to zero, once all channels are chosen.
        epochs: Passes over the training data afterwards; by default those of the last iteration.
    """

    enabled: bool = field(default=False, metadata=option(key=Key(note="true: for sparse tensor cores")))
    epochs: int | None = field(
        default=None,
        metadata=option(least=0, key=Key(after="samples", example="5", note="of training afterwards")),
    )


@keys_of(Sparsify, SparsifyKeys, without=(GroupSelection,))
class SparsifySection(PassSection):
    """Zeros within weights, after the last iteration; see the command `sparsify`."""

    note: ClassVar[str] = "zeros within weights, once all channels are chosen"

    @field_validator("pattern", check_fields=False)
    @classmethod
    def _known(cls, pattern: str) -> str:
        try:
            return str(Pattern.of(pattern))
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.hint}") from error
