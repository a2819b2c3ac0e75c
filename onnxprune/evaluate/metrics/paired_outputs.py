"""The outputs of the baseline and of the model, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from onnxprune.errors import DataError
from onnxprune.evaluate.metrics.metric import BatchOutputs
from onnxprune.runtime import Array

if TYPE_CHECKING:
    from onnxprune.evaluate.metrics.baseline import Reading


class Pair(NamedTuple):
    """One output of both models for a batch.

    Attributes:
        name: The name of the output.
        before: The baseline's values.
        after: The model's values, of the same shape.
        reading: Reading of the values as classes; ``None`` if they have none.
        mask: Weights of the tokens, ``[N, T]``, where the second axis counts tokens.
    """

    name: str
    before: Array
    after: Array
    reading: Reading | None
    mask: Array | None


def paired(answer: BatchOutputs) -> list[Pair]:
    """Return the outputs of the baseline and of the model, one by one.

    Raises:
        DataError: The shape of an output differs from the baseline's.
    """
    found = []
    for name, output in answer.outputs.items():
        before = answer.remembered[name].values.shape if name in answer.remembered else None
        if output.shape != before:
            expected = "nothing" if before is None else f"shape {list(before)}"
            raise DataError(
                f"output {name!r} has shape {list(output.shape)}, the baseline's {expected}",
                "outputs whose size depends on the values are judged by detections or module:callable",
            )
        values, reading = answer.remembered[name]
        found.append(Pair(name, values, output, reading, answer.tokens.mask_of(name, output.shape)))
    return found
