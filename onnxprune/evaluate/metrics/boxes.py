"""Boxes: overlap, suppression of duplicates, matching."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnxprune.runtime import Array


class Boxes(NamedTuple):
    """The boxes of one sample, in descending order of their scores.

    Attributes:
        corners: Left, top, right, bottom, ``[n, 4]``, in the model's own unit.
        scores: Confidences, 0 to 1, ``[n]``.
        classes: Class numbers, ``[n]``.
    """

    corners: Array
    scores: Array
    classes: Array

    def chosen(self, rows: Array) -> Boxes:
        """Return some of the boxes, by their numbers or as a boolean array."""
        return Boxes(self.corners[rows], self.scores[rows], self.classes[rows])

    def above(self, score: float) -> Boxes:
        """Return the boxes with at least this score."""
        return self.chosen(self.scores >= score)


def by_score(corners: Array, scores: Array, classes: Array) -> Boxes:
    """Return boxes in descending order of their scores; those without area or finite numbers are left out."""
    finite = np.isfinite(scores) & np.isfinite(corners).all(1) & (corners[:, 2:] > corners[:, :2]).all(1)
    found = Boxes(*(np.asarray(a)[finite] for a in (corners, scores, classes)))
    return found.chosen(np.argsort(-found.scores, kind="stable"))


def corners_of_centres(boxes: Array) -> Array:
    """Turn centre x, centre y, width, height into corners, ``[…, 4]`` each."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def overlaps(one: Array, other: Array) -> Array:
    """Return the intersection over union of boxes, ``[n, m]``, from corners ``[n, 4]`` and ``[m, 4]``.

    Everingham et al., "The Pascal Visual Object Classes challenge", 2010; without the added pixel.
    """
    low = np.maximum(one[:, np.newaxis, :2], other[np.newaxis, :, :2])
    high = np.minimum(one[:, np.newaxis, 2:], other[np.newaxis, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (one, other)]
    union = areas[0][:, np.newaxis] + areas[1][np.newaxis] - shared
    return np.asarray(shared / np.where(union > 0, union, 1))


def suppressed(boxes: Boxes, overlap: float, limit: int) -> Boxes:
    """Leave out boxes that overlap one of the same class with a higher score.

    Greedy non-maximum suppression, as in R. Girshick et al., "Rich feature hierarchies", 2014.

    Args:
        boxes: Candidates, best first.
        overlap: Intersection over union above which the lower score goes.
        limit: Largest number of boxes that stay.
    """
    alive, kept = np.arange(len(boxes.scores)), list[int]()
    while len(alive) and len(kept) < limit:
        first, rest = alive[0], alive[1:]
        kept.append(int(first))
        same = boxes.classes[rest] == boxes.classes[first]
        near = overlaps(boxes.corners[first : first + 1], boxes.corners[rest])[0] > overlap
        alive = rest[~(same & near)]
    return boxes.chosen(np.asarray(kept, np.int64))


def matches(found: Boxes, expected: Boxes, overlap: float) -> Array:
    """Pair boxes of two lists: each found box, best first, with the free reference box that it overlaps most.

    Args:
        found: Boxes of the model, best first.
        expected: Reference boxes.
        overlap: Smallest intersection over union of a pair.

    Returns:
        For each found box whether it has a partner of its class, ``[n]``.
    """
    table = overlaps(found.corners, expected.corners)
    table[found.classes[:, np.newaxis] != expected.classes[np.newaxis]] = -1
    paired = np.zeros(len(found.scores), bool)
    for row in range(len(paired)) if table.shape[1] else ():
        best = int(table[row].argmax())
        if table[row, best] >= overlap:
            paired[row] = True
            table[:, best] = -1
    return paired
