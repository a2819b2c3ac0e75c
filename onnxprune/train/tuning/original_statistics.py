"""Statistics of the original model, noted in the sparse model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxprune.decisions.origin_note import ORIGIN_KEY, Origin
from onnxprune.errors import ModelError
from onnxprune.evaluate.data import Dataset
from onnxprune.ir import Model
from onnxprune.support.digests import file_digest
from onnxprune.train.tuning.unfold import NEAR, distance, foldable, moments_of


def noted(
    sparse: Model, original: Model, data: Dataset, *, seed: int = 0, threads: int | None = None
) -> None:
    """Note in a sparse model the statistics of the original that finetuning reads.

    Args:
        sparse: The sparse model, repaired or not; it is changed.
        original: The model before pruning, its tensors named like those that were analysed.
        data: Samples, of which a few are drawn.
        seed: Seed of the draw.
        threads: Threads to compute with.

    Raises:
        DataError: They do not fit, or make values that are not finite.
    """
    names = foldable(original)
    found = moments_of(original, names, data, seed=seed, threads=threads) if names else {}
    statistics = {
        name: (m.mean.astype(np.float32), np.sqrt(m.variance).astype(np.float32)) for name, m in found.items()
    }
    near = bool(found) and distance(sparse, original, data, seed=seed, threads=threads) < NEAR
    earlier = Origin.stored(sparse.metadata()) or Origin()
    sparse.set_metadata(ORIGIN_KEY, replace(earlier, statistics=statistics, near=near).to_text())


def trained(model: Model) -> None:
    """Note that a model has been trained: its channel statistics have settled, near the original or not."""
    origin = Origin.stored(model.metadata())
    if origin is not None:
        model.set_metadata(ORIGIN_KEY, replace(origin, near=True).to_text())


def placed(model: Model, original: str | Path, output: str | Path) -> None:
    """Note the path of the original's file, relative to the folder of the sparse model's file."""
    where, folder = Path(original).resolve(), Path(output).resolve().parent
    try:
        file = Path(os.path.relpath(where, folder)).as_posix()
    except ValueError:  # on another drive
        file = where.name
    origin = Origin.stored(model.metadata()) or Origin()
    model.set_metadata(ORIGIN_KEY, replace(origin, file=file, sha256=file_digest(where)).to_text())


def located(model: Model, sparse: str | Path) -> str | None:
    """Return the file of the model that a sparse model was pruned from, at its noted path or beside.

    Args:
        model: The sparse model.
        sparse: Its file.

    Returns:
        The path; ``None`` without a note, or without a file of the noted digest.
    """
    origin = Origin.stored(model.metadata())
    if origin is None or origin.file is None:
        return None
    folder = Path(sparse).resolve().parent
    for place in (folder / origin.file, folder / Path(origin.file).name):
        if place.is_file() and file_digest(place) == origin.sha256:
            return str(place)
    return None


def original_of(model: Model, sparse: str | Path, given: str | None) -> str:
    """Return the file of the model before pruning: the given one, or the noted one.

    Raises:
        ModelError: There is neither.
    """
    found = given or located(model, sparse)
    if found is None:
        raise ModelError(
            f"the model that {sparse} was pruned from does not lie where it lay, or is another now",
            "name it: --original model.onnx",
        )
    return found
