"""Language models: the probability of the next token."""

from __future__ import annotations

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data import LABELS
from onnxprune.evaluate.metrics.metric import BatchOutputs, Scores
from onnxprune.runtime import Array


def next_token_loss(name: str, answer: BatchOutputs) -> tuple[Scores, Scores]:
    """Return the negative logarithms of the probabilities of the next tokens, and how many there are.

    The tokens are the ``labels`` of the data where there are any, ``[N, T]`` with negative numbers for those
    that do not count (they are shifted here, not in the data), otherwise the tokens that were fed. A token
    counts if neither it nor the one before it is padding.

    Args:
        name: The output of logits; empty for the first ``[N, T, V]``.
        answer: Outputs.

    Returns:
        Sums in nats and numbers of tokens, ``[N]`` each.

    Raises:
        DataError: There are no logits or no tokens.
    """
    logits = _logits(name, answer)
    labels = answer.targets.get(LABELS, answer.tokens.ids)
    if labels is None or labels.shape != logits.shape[:2]:
        raise DataError(
            f"perplexity needs the tokens of logits of shape {list(logits.shape)}, and the data has none",
            f"the model reads them as an input [N, T] of integers, or add an array {LABELS!r} of that shape",
        )
    mask = answer.tokens.mask
    counted = labels[:, 1:] >= 0
    if mask is not None and mask.shape == labels.shape:
        counted = counted & (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
    expected = np.where(counted, labels[:, 1:], 0)
    if expected.size and expected.max() >= logits.shape[2]:
        raise DataError(
            f"token {expected.max()} is none of the {logits.shape[2]} rows of the logits", "give other labels"
        )
    scores = logits[:, :-1].astype(np.float64)
    high = scores.max(-1, keepdims=True)
    normaliser = np.log(np.exp(scores - high).sum(-1)) + high[..., 0]
    own = np.take_along_axis(scores, expected[..., np.newaxis], -1)[..., 0]
    return ((normaliser - own) * counted).sum(1), counted.sum(1).astype(np.float64)


def _logits(name: str, answer: BatchOutputs) -> Array:
    tables = {n: a for n, a in answer.outputs.items() if a.ndim == 3 and a.dtype.kind == "f"}
    chosen = name or next(iter(tables), "")
    if chosen not in tables:
        raise DataError(
            "perplexity needs an output of logits, [N, T, V], and the model has none",
            f"name it with perplexity@output=NAME: {', '.join(answer.outputs)}",
        )
    return tables[chosen]
