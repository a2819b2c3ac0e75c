"""What every pass is: a frozen set of options that turns a model into a result.

A pass states what it requires of the model it is given and ensures what it promises of the one it returns;
``__call__`` is the only way through and checks both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx

from onnxprune.errors import ModelError
from onnxprune.graph import Model, check_weights, skeleton
from onnxprune.plan import Analysis


@dataclass(frozen=True)
class PassResult:
    """What a pass hands on.

    Attributes:
        model: The model, the same object where the pass only measured.
        modified: Whether the pass changed anything.
        facts: What there is to report, ready for JSON, units in the key names.
        analysis: The newest analysis, for the passes that follow.
    """

    model: Model
    modified: bool
    facts: dict[str, Any] = field(default_factory=dict)
    analysis: Analysis | None = None


class Pass(ABC):
    """One step from a model to a model."""

    name: ClassVar[str]

    def __call__(self, given: Model | PassResult) -> PassResult:
        """Run the pass on a model, or on what another pass handed on."""
        before = PassResult(given, modified=False) if isinstance(given, Model) else given
        self.requires(before)
        after = self.run(before)
        self.ensures(before, after)
        return after

    @abstractmethod
    def run(self, given: PassResult) -> PassResult:
        """Do the work."""

    def requires(self, given: PassResult) -> None:
        """Raise an error if the model is not one this pass can work on."""
        check_weights(given.model)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """Raise an error if the result is not what the pass promises."""
        if result.modified:
            check_valid(result.model, self.name)


def check_valid(model: Model, made_by: str) -> None:
    """Refuse a model that breaks the ONNX specification or whose shapes do not fit.

    Raises:
        ModelError: A pass of ours made an invalid model: a defect to be reported.
    """
    bare = skeleton(model.proto)
    try:
        onnx.checker.check_model(bare)
        onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=False)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        if _only_misses_types(error):
            return
        raise ModelError(
            f"`{made_by}` made an invalid model: {error}", "please report this: it is a defect of onnxprune"
        ) from error


def _only_misses_types(error: Exception) -> bool:
    """Whether inference only got no further behind operators that onnx has no inference for."""
    return all("instead is null" in line for line in str(error).splitlines() if line.strip())
