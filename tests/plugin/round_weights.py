"""A pass from outside the package: weights rounded to a multiple of a step."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.passes import Pass, PassResult


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights to multiples of a step.

    Attributes:
        step: The step.
        biases: Round vectors, too.
    """

    name: ClassVar[str] = "round-weights"

    step: float = 0.125
    biases: bool = False

    def run(self, given: PassResult) -> PassResult:
        """Round every constant of real numbers."""
        model, rounded = given.model.copy(), 0
        for name in given.model.constants:
            values = given.model.array(name)
            if values.dtype.kind == "f" and (values.ndim > 1 or self.biases):
                model.set_array(name, (np.round(values / self.step) * self.step).astype(values.dtype))
                rounded += values.size
        return PassResult(model, True, {"rounded": rounded}, given.analysis)
