"""The base of all passes: a frozen set of options that maps a model to a result.

A pass has a precondition on its input model (`requires`) and a postcondition on its result (`ensures`);
``__call__`` is the only entry and checks both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import get_annotations
from types import MappingProxyType
from typing import Any, ClassVar

from onnxprune.decisions.channels.hints import Hints
from onnxprune.decisions.plan import PLAN_KEY, Analysis
from onnxprune.errors import ModelError, UsageError
from onnxprune.evaluate.data import shapes_of_samples
from onnxprune.ir import (
    SAMPLES_KEY,
    Model,
    analysis_scope,
    check_weights,
    note_sample_shapes,
    opened,
    sized,
)
from onnxprune.ir.declarations import correct_declarations, refusal, wrong_declarations
from onnxprune.passes.reports import Report
from onnxprune.support.option_fields import check_bounds


@dataclass(frozen=True)
class PassResult:
    """The result of a pass.

    Attributes:
        model: The model, the same object where the pass only measured.
        modified: True if the pass changed anything.
        report: Facts to report; a mapping becomes a `Report` with these keys.
        analysis: The newest analysis, for the passes that follow.
        kept: Elements of the constants that are left, where some are gone (see `onnxprune.certify`).
        original: Rotated form of the given model, if that form was pruned instead.
        unrepaired: The model before its repair, of a pruning that was asked for it.
    """

    model: Model
    modified: bool
    report: Report = field(default_factory=Report)
    analysis: Analysis | None = None
    kept: Hints = field(default_factory=dict)
    original: Model | None = None
    unrepaired: Model | None = None

    def __post_init__(self) -> None:
        """Take the keys of a pass of another package as they are."""
        if isinstance(self.report, Mapping):
            object.__setattr__(self, "report", Report(more=self.report))

    @property
    def facts(self) -> dict[str, Any]:
        """The report, ready for JSON, units in the key names."""
        return self.report.facts()


class Pass(ABC):
    """One step from a model to a model.

    Attributes:
        name: Name of the pass.
        input_shapes: Full shapes to analyse and run with, by input name; a field of most passes.
        dims: Sizes by the name of an open axis of the inputs, likewise.
        open_io: Globs of inputs and outputs whose fixed axes may shrink, likewise.
        preserves: Names of the analyses of the model it is given that hold for the model it makes. A pass
            that modifies nothing returns the same model and preserves all.
        maps: True if it reads weights through `Model.array` only, so that they may lie in mapped files.
    """

    name: ClassVar[str]
    preserves: ClassVar[frozenset[str]] = frozenset()
    maps: ClassVar[bool] = False
    input_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    dims: Mapping[str, int] = MappingProxyType({})
    open_io: Sequence[str] = ()

    def __call__(self, given: Model | PassResult) -> PassResult:
        """Run the pass on a model, or on the result of another pass.

        Raises:
            UsageError: A parameter that takes a list of names was given a text.
        """
        self._check_lists()
        check_bounds(self, self.name)
        before = PassResult(given, modified=False) if isinstance(given, Model) else given
        model = before.model if self.maps else before.model.in_memory()
        model = opened(model.copy(), self.open_io) if self.open_io else model
        before = replace(before, model=self._at_sample_sizes(sized(model, self.input_shapes, self.dims)))
        with analysis_scope():
            self.requires(before)
            after = self.run(before)
            if after.modified:
                _note_samples(before.model, after.model)
                after = with_right_declarations(before.model, after)
                after.model.analyses.preserve(after.model, before.model.analyses, self.preserves)
            self.ensures(before, after)
        return after

    def _at_sample_sizes(self, model: Model) -> Model:
        """Count the work of a model at the sizes of the samples, unless its baseline is counted already."""
        data = getattr(self, "data", None)
        if data is None or model.sample_shapes or PLAN_KEY in model.metadata():
            return model
        return replace(model, sample_shapes=shapes_of_samples(data, model.inputs, model.outputs))

    def _check_lists(self) -> None:
        """Refuse a text in the place of a list: its letters would be taken for names."""
        for name, value in vars(self).items():
            if isinstance(value, str) and self._takes_list(name):
                message = f"{self.name}: {name} takes a list of names, and was given the text {value!r}"
                raise UsageError(message, f"write {name}=[{value!r}]")

    @classmethod
    def _takes_list(cls, name: str) -> bool:
        """Return whether a parameter is annotated as a sequence; annotations are texts."""
        found = (get_annotations(base).get(name) for base in cls.__mro__)
        return str(next((kind for kind in found if kind is not None), "")).startswith("Sequence")

    @abstractmethod
    def run(self, given: PassResult) -> PassResult:
        """Do the work."""

    def requires(self, given: PassResult) -> None:
        """Raise an error if the model is not one this pass can work on."""
        check_weights(given.model)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """Raise an error if the result breaks the postcondition of the pass."""
        if result.modified:
            check_valid(result.model, self.name, given.model)


def _note_samples(before: Model, after: Model) -> None:
    """Note the shapes of samples in a model that has got a plan: its baseline was counted at their sizes."""
    if PLAN_KEY in (notes := after.metadata()) and before.sample_shapes and SAMPLES_KEY not in notes:
        note_sample_shapes(after, dict(before.sample_shapes))


def check_valid(model: Model, made_by: str, given: Model | None = None) -> None:
    """Refuse a model that breaks the ONNX specification or whose shapes do not fit.

    Args:
        model: The model.
        made_by: Name of the pass that made it.
        given: The model it was made from. If shape inference refuses this one too, no error is raised.

    Raises:
        ModelError: A pass of ours made an invalid model: a defect to be reported.
    """
    error = refusal(model)
    if error is None or (given is not None and _is_refused(given)):
        return  # the runtime decides
    raise ModelError(
        f"`{made_by}` made an invalid model: {error}", "please report this: it is a defect of onnxprune"
    ) from error


def _is_refused(given: Model) -> bool:
    """Return whether shape inference refuses a model that a pass was given."""
    return wrong_declarations(given) is None or refusal(given, numbers=True) is not None


def with_right_declarations(given: Model, result: PassResult) -> PassResult:
    """Correct the shapes in the result of a pass that its input model declares wrongly.

    Returns:
        The result, the corrections among its facts.
    """
    if refusal(result.model) is None:
        return result
    inherited = {found.name for found in wrong_declarations(given) or ()}
    wrong = wrong_declarations(result.model) or []
    if not wrong or not {found.name for found in wrong} <= inherited:
        return result
    correct_declarations(result.model)
    return replace(result, report=replace(result.report, corrected=[str(found) for found in wrong]))
