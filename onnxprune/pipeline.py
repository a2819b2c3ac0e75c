"""Passes in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.errors import OnnxpruneError
from onnxprune.ir import Model, analysis_scope
from onnxprune.passes.base import Pass, PassResult


@dataclass(frozen=True)
class Pipeline:
    """Run passes one after the other, each on the result of the one before.

    Attributes:
        passes: The passes, in order.
    """

    passes: Sequence[Pass]

    def __call__(self, model: Model) -> list[PassResult]:
        """Return the result of every pass, in order.

        Raises:
            OnnxpruneError: Of the failed pass; the message names it and the passes completed before.
        """
        results: list[PassResult] = []
        given: Model | PassResult = model
        with analysis_scope():
            for step in self.passes:
                try:
                    given = step(given)
                except OnnxpruneError as error:
                    done = " → ".join(p.name for p in self.passes[: len(results)]) or "nothing"
                    error.message = f"{step.name} (after {done}): {error.message}"
                    raise
                results.append(given)
        return results
