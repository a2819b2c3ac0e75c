"""The forms in which detectors return boxes, and the boxes of a batch.

A form is recognised once, from all outputs of the baseline, and holds for all models
compared with it.

    [N, 4+C, A]            one row a quantity: centre, size, C scores (YOLOv8, v9, v11); more rows for the
                           coefficients of masks where another output has as many prototypes
    [N, A, 5+C]            one column a quantity: centre, size, objectness, C scores (YOLOv5, v7, X)
    [N, K, 6]              finished boxes: corners, score, class (YOLOv10, embedded suppression)
    [N, K, 4], [N, K, C]   boxes and scores of all classes (SSD, EfficientDet); or [N, 4, K], [N, C, K]
    [N, K, 4], [N, K] × 2  finished boxes, scores, classes, and perhaps a number of boxes (EfficientNMS)
    [K, 4], [K] × 2        the same for one picture (torchvision)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.metrics.boxes import Boxes, by_score, corners_of_centres, suppressed
from onnxprune.runtime import Array

Outputs = Mapping[str, Array]
Layout = Literal["rows", "columns", "finished", "separate", "lists"]
_MOST_BOXES = 300
_MOST_CANDIDATES = 1000
_SUM = 1e-3
"""Largest distance from one of a sum of probabilities."""
_FORMS = (
    "detections reads [N, 4+C, A], [N, A, 5+C], [N, K, 6], boxes [N, K, 4] with scores [N, K, C], and boxes"
    " [N, K, 4] with scores and classes [N, K]; for another form give a metric of your own as module:callable"
)


@dataclass(frozen=True)
class BoxForm:
    """A form of boxes.

    Attributes:
        layout: The kind.
        boxes: The output with the boxes.
        scores: The output with the scores, where that is another one.
        classes: The output with the class numbers, where there is one.
        counts: The output with the number of boxes a sample, where there is one.
        centres: True if boxes are centre and size; otherwise two corners.
        entries: Number of classes, where scores stand beside the boxes.
        background: The class of no object, where scores are probabilities that sum to one.
        turned: True if separate boxes and scores have their quantities on axis 1, not on the last axis.
    """

    layout: Layout
    boxes: str
    scores: str = ""
    classes: str = ""
    counts: str = ""
    centres: bool = True
    entries: int = 0
    background: int | None = None
    turned: bool = False

    def read(self, outputs: Outputs, least: float, overlap: float) -> list[Boxes]:
        """Return the boxes of a batch, duplicates suppressed where the form has them.

        Args:
            outputs: Outputs of a model, samples first.
            least: Smallest score of a box.
            overlap: Intersection over union above which one of two boxes of a class is a duplicate.

        Raises:
            DataError: An output is missing, or has another form than the baseline's.
        """
        missing = {self.boxes, self.scores, self.classes, self.counts} - {"", *outputs}
        if missing:
            raise DataError(f"detections: the model has no output {min(missing)!r}", _FORMS)
        return _READERS[self.layout](self, outputs, least, overlap)

    def corners(self, boxes: Array) -> Array:
        """Return boxes as corners in double precision, ``[…, 4]``."""
        numbers = boxes.astype(np.float64)
        return corners_of_centres(numbers) if self.centres else numbers


def recognised(batches: Sequence[Outputs]) -> BoxForm:
    """Return the form of a detector's outputs.

    Args:
        batches: The baseline's outputs for every batch, samples first.

    Raises:
        DataError: The form is none of those that are known; the message lists the outputs.
    """
    first = batches[0]
    for recognise in (_lists, _finished_outputs, _separate, _one_table):
        found = recognise(batches)
        if found is not None:
            return found
    listed = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in first.items())
    raise DataError(f"detections cannot read boxes from the outputs {listed}", _FORMS)


def _one_table(batches: Sequence[Outputs]) -> BoxForm | None:
    """Recognise a table of boxes and scores; of several outputs the only one that has the form."""
    found = [form for name in batches[0] if (form := _table(name, batches)) is not None]
    return found[0] if len(found) == 1 else None


def _table(name: str, batches: Sequence[Outputs]) -> BoxForm | None:
    arrays = [batch[name] for batch in batches]
    shape = arrays[0].shape
    if len(shape) != 3 or arrays[0].dtype.kind != "f" or min(shape[1:]) < 5:
        return None
    if shape[2] == 6 and shape[1] != 5 and _are_finished(arrays):
        return BoxForm("finished", name, centres=False)
    rows = shape[1] < shape[2]
    masks = {a.shape[1] for n, a in batches[0].items() if n != name and a.ndim == 4}
    entries = min(shape[1:]) - (4 if rows else 5)
    entries -= next((m for m in masks if m < entries), 0)
    form = BoxForm("rows" if rows else "columns", name, entries=entries)
    values = [np.moveaxis(a, 1, 2) if rows else a for a in arrays]
    scores = [v[..., 4 : (4 if rows else 5) + entries] for v in values]
    fits = entries > 0 and all(
        _within_one(s) and (v[..., 2:4] >= 0).all() for s, v in zip(scores, values, strict=True)
    )
    certain = any(all(np.allclose(v.sum(axis), 1, atol=_SUM) for v in values) for axis in (1, 2))
    return form if fits and not certain else None


def _are_finished(arrays: Sequence[Array]) -> bool:
    """Return whether six columns are corners, a score and the number of a class."""
    rows = np.concatenate([a.reshape(-1, 6) for a in arrays])
    whole = bool((rows[:, 5] == np.round(rows[:, 5])).all())
    return whole and _within_one(rows[:, 4]) and bool((rows[:, 2:4] >= rows[:, :2]).all())


def _separate(batches: Sequence[Outputs]) -> BoxForm | None:
    """Recognise boxes [N, K, 4] beside scores [N, K, C], or [N, 4, K] beside [N, C, K]."""
    found = _beside(batches)
    if found is not None:
        return found
    found = _beside([_turned(outputs) for outputs in batches])
    return None if found is None else replace(found, turned=True)


def _turned(outputs: Outputs) -> Outputs:
    """Return outputs with the last two of three axes exchanged."""
    return {n: np.moveaxis(a, 1, 2) if a.ndim == 3 else a for n, a in outputs.items()}


def _beside(batches: Sequence[Outputs]) -> BoxForm | None:
    first = batches[0]
    boxes = _box_table(batches)
    if boxes is None:
        return None
    others = {n: a for n, a in first.items() if n != boxes and a.dtype.kind == "f"}
    scores = _only(n for n, a in others.items() if a.ndim == 3 and a.shape[:2] == first[boxes].shape[:2])
    if scores is None or not all(_within_one(b[scores]) for b in batches):
        return None
    background = None
    if first[scores].shape[2] > 1 and all(np.allclose(b[scores].sum(-1), 1, atol=_SUM) for b in batches):
        background = int(np.mean([b[scores].mean((0, 1)) for b in batches], axis=0).argmax())
    return BoxForm(
        "separate", boxes, scores, centres=_centres([b[boxes] for b in batches]), background=background
    )


def _finished_outputs(batches: Sequence[Outputs]) -> BoxForm | None:
    """Recognise boxes [N, K, 4] beside a score and a class for each."""
    first = batches[0]
    boxes = _box_table(batches)
    if boxes is None:
        return None
    like = [n for n, a in first.items() if n != boxes and a.shape == first[boxes].shape[:2]]
    classes = _only(n for n in like if _are_classes([b[n] for b in batches]))
    scores = _only(n for n in like if n != classes and all(_within_one(b[n]) for b in batches))
    if classes is None or scores is None:
        return None
    samples = len(first[boxes])
    counts = _only(
        n for n, a in first.items() if a.dtype.kind in "iu" and a.size == samples and n not in like
    )
    centres = _centres([b[boxes] for b in batches])
    return BoxForm("finished", boxes, scores, classes, counts or "", centres)


def _lists(batches: Sequence[Outputs]) -> BoxForm | None:
    """Recognise the boxes of one picture: [K, 4] beside [K] and [K]."""
    first = batches[0]
    boxes = _only(n for n, a in first.items() if a.ndim == 2 and a.shape[1] == 4 and a.dtype.kind == "f")
    if boxes is None:
        return None
    like = [n for n, a in first.items() if a.shape == first[boxes].shape[:1]]
    classes = _only(n for n in like if first[n].dtype.kind in "iu")
    scores = _only(n for n in like if first[n].dtype.kind == "f")
    if classes is None or scores is None or not all(_within_one(b[scores]) for b in batches):
        return None
    return BoxForm("lists", boxes, scores, classes, centres=_centres([b[boxes] for b in batches]))


def _read_table(form: BoxForm, outputs: Outputs, least: float, overlap: float) -> list[Boxes]:
    values = outputs[form.boxes]
    table = np.moveaxis(values, 1, 2) if form.layout == "rows" else values
    begin = 4 if form.layout == "rows" else 5
    if table.ndim != 3 or table.shape[2] < begin + form.entries:
        raise DataError(
            f"output {form.boxes!r} has shape {list(values.shape)}, unlike the baseline's", _FORMS
        )
    scores = table[..., begin : begin + form.entries]
    if form.layout == "columns":
        scores = scores * table[..., 4:5]
    return [_candidates(form, *pair, least, overlap) for pair in zip(table[..., :4], scores, strict=True)]


def _read_separate(form: BoxForm, outputs: Outputs, least: float, overlap: float) -> list[Boxes]:
    if form.turned:
        outputs = _turned(outputs)
    pairs = zip(outputs[form.boxes], outputs[form.scores], strict=True)
    return [_candidates(form, boxes, scores, least, overlap) for boxes, scores in pairs]


def _candidates(form: BoxForm, boxes: Array, scores: Array, least: float, overlap: float) -> Boxes:
    """Return the boxes of a sample from candidates ``[A, 4]`` and scores ``[A, C]``: one class for each."""
    if form.background is not None:
        scores = scores.copy()
        scores[:, form.background] = -1
    best = np.argmax(scores, 1)
    score = np.take_along_axis(scores, best[:, np.newaxis], 1)[:, 0]
    rows = np.flatnonzero(score >= least)
    found = by_score(form.corners(boxes[rows]), score[rows].astype(np.float64), best[rows])
    return suppressed(found.chosen(np.arange(min(len(found.scores), _MOST_CANDIDATES))), overlap, _MOST_BOXES)


def _read_finished(form: BoxForm, outputs: Outputs, least: float, overlap: float) -> list[Boxes]:
    del overlap
    table = outputs[form.boxes]
    scores = outputs[form.scores] if form.scores else table[..., 4]
    classes = outputs[form.classes] if form.classes else table[..., 5]
    counts = outputs[form.counts].reshape(-1) if form.counts else np.full(len(table), table.shape[1])
    found = []
    for row, count in enumerate(counts):
        boxes = form.corners(table[row, :count, :4])
        kinds = np.round(classes[row, :count]).astype(np.int64)
        found.append(by_score(boxes, scores[row, :count].astype(np.float64), kinds).above(least))
    return found


def _read_lists(form: BoxForm, outputs: Outputs, least: float, overlap: float) -> list[Boxes]:
    del overlap
    scores = outputs[form.scores].astype(np.float64)
    return [by_score(form.corners(outputs[form.boxes]), scores, outputs[form.classes]).above(least)]


_READERS: Mapping[Layout, Callable[[BoxForm, Outputs, float, float], list[Boxes]]] = {
    "rows": _read_table,
    "columns": _read_table,
    "separate": _read_separate,
    "finished": _read_finished,
    "lists": _read_lists,
}


def _box_table(batches: Sequence[Outputs]) -> str | None:
    """Return the output [N, K, 4]; of several the one whose values are not all fractions, as scores are."""
    first = batches[0]
    found = [n for n, a in first.items() if a.ndim == 3 and a.shape[2] == 4 and a.dtype.kind == "f"]
    return _only(found) or _only(n for n in found if not all(_within_one(b[n]) for b in batches))


def _only(names: Iterable[str]) -> str | None:
    """Return the only name, ``None`` where there are none or several."""
    found = list(names)
    return found[0] if len(found) == 1 else None


def _within_one(values: Array) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _are_classes(arrays: Sequence[Array]) -> bool:
    if arrays[0].dtype.kind in "iu":
        return True
    whole = all((a == np.round(a)).all() and (a >= -1).all() for a in arrays)
    return bool(whole) and any((a > 1).any() for a in arrays)


def _centres(arrays: Sequence[Array]) -> bool:
    """Return whether boxes are centre and size: some of them would be corners in the wrong order."""
    return any(bool((a[..., 2:] < a[..., :2]).any()) for a in arrays)
