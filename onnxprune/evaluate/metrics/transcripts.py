"""Recognisers: errors of characters and of words in sequences read from frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import LABELS
from onnxprune.evaluate.metrics.metric import BatchOutputs, Outputs, Scores
from onnxprune.runtime import Array

Text = tuple[int, ...]
_FRAMES = "an output of classes for each frame, [N, T, C] or [T, N, C]"


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding of connectionist temporal classification (A. Graves et al., 2006).

    Attributes:
        blank: The class of no character; by default the first or the last one, whichever the baseline answers
            more often.
        space: The class between two words.
        output: The output to read; by default the only one of three axes.
    """

    blank: int | None = None
    space: int | None = None
    output: str = ""

    def texts(self, outputs: Outputs, blank: int) -> list[Text]:
        """Return the characters of each sample: the best class of each frame, without repetitions and blanks.

        Args:
            outputs: Outputs of a model, samples first.
            blank: The class of no character.

        Raises:
            DataError: There is no such output, or several.
        """
        best = np.argmax(self.frames(outputs), axis=-1)
        changed = np.concatenate([np.ones_like(best[:, :1], bool), best[:, 1:] != best[:, :-1]], axis=1)
        return [tuple(row[keep].tolist()) for row, keep in zip(best, changed & (best != blank), strict=True)]

    def frames(self, outputs: Outputs) -> Array:
        """Return the scores of all frames, ``[N, T, C]``.

        Raises:
            DataError: There is no such output, or several.
        """
        names = [n for n, a in outputs.items() if a.ndim == 3 and a.dtype.kind == "f"]
        chosen = [self.output] if self.output else names
        if len(chosen) != 1 or chosen[0] not in names:
            found = ", ".join(f"{n} {list(a.shape)}" for n, a in outputs.items())
            raise DataError(f"cer and wer need {_FRAMES}; the model has {found}", "name one: cer@output=NAME")
        return outputs[chosen[0]]

    def blank_of(self, batches: Sequence[Outputs]) -> int:
        """Return the class of no character, from the baseline's outputs for every batch.

        Raises:
            DataError: It is not given, and the baseline answers neither the first nor the last class.
        """
        if self.blank is not None:
            return self.blank
        frames = [self.frames(outputs) for outputs in batches]
        last = frames[0].shape[-1] - 1
        best = [np.argmax(f, axis=-1) for f in frames]
        ends = [c for c in (0, last) if c != self.space]
        counts = {c: sum(int((b == c).sum()) for b in best) for c in ends}
        if not any(counts.values()):
            raise DataError(
                f"the model answers neither class 0 nor class {last}, one of which is usually the blank",
                "give the class of the blank: cer@blank=N",
            )
        return max(counts, key=lambda c: counts[c])


def errors(words: bool, how: Decoding, answer: BatchOutputs) -> tuple[Scores, Scores]:
    """Return the edit distance to the reference, and its length.

    The reference are the ``labels`` of the data, ``[N, L]`` classes filled up with −1 or with blanks; where
    there are none, the characters that the baseline reads.

    Args:
        words: True to compare words, which lie between spaces; False for characters.
        how: Decoding of frames.
        answer: Outputs.

    Returns:
        Errors and lengths, ``[N]`` each.

    Raises:
        DataError: There is no output of frames, or the space is not known.
    """
    assert answer.baseline is not None
    blank = int(answer.baseline.fact(f"blank {how}", how.blank_of))
    found = how.texts(answer.outputs, blank)
    expected = _reference(how, blank, answer)
    cut: Callable[[Text], Sequence[object]] = _characters
    if words:
        if how.space is None:
            raise UsageError("wer needs the class of the space between words", "give it: wer@space=N")
        cut = _Words(how.space)
    pairs = [(cut(a), cut(b)) for a, b in zip(found, expected, strict=True)]
    distances = np.array([edit_distance(a, b) for a, b in pairs], np.float64)
    return distances, np.array([len(b) for _, b in pairs], np.float64)


def edit_distance(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the insertions, deletions and substitutions between two sequences (V. Levenshtein, 1966)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@dataclass(frozen=True)
class _Words:
    space: int

    def __call__(self, text: Text) -> Sequence[object]:
        ends = [k for k, c in enumerate(text) if c == self.space]
        parts = (text[a + 1 : b] for a, b in zip([-1, *ends], [*ends, len(text)], strict=True))
        return [part for part in parts if part]


def _characters(text: Text) -> Sequence[object]:
    return text


def _reference(how: Decoding, blank: int, answer: BatchOutputs) -> list[Text]:
    if LABELS not in answer.targets:
        return how.texts({name: output.values for name, output in answer.remembered.items()}, blank)
    labels = answer.targets[LABELS]
    if labels.ndim != 2:
        raise DataError(
            f"labels of shape {list(labels.shape)} are no texts", "give [N, L] classes, filled up with -1"
        )
    return [tuple(row[(row >= 0) & (row != blank)].tolist()) for row in labels]
