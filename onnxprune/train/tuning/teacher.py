"""The teacher of a distillation: its outputs and inner tensors.

Where the samples are the same in every epoch the teacher runs once on each of them, before training starts,
in the order of the data; so a training that goes on from a checkpoint has the very same targets. Samples
that a user's loader may change from epoch to epoch are run in every epoch.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from onnxprune.errors import UsageError
from onnxprune.evaluate.data import Batch, Dataset
from onnxprune.ir import Model, with_outputs
from onnxprune.runtime import Array, Session
from onnxprune.runtime.batch_axes import made_axis
from onnxprune.support.progress import task
from onnxprune.train.output_heads import TEACHER

REMEMBERED_BYTES = 1 << 30
"""Answers that would take more memory are given anew each time."""
_BATCH = 64

Indices = Mapping[int, Array]


@dataclass
class Teacher:
    """A model whose outputs and inner tensors are targets of a training.

    Attributes:
        session: The model, with the needed tensors as its outputs.
        features: Elements of each axis that the student still has, of tensors that are no outputs.
    """

    session: Session
    features: Mapping[str, Indices] = field(default_factory=dict)
    _axes: dict[str, int | None] = field(default_factory=dict)
    _rows: dict[bytes, int] = field(default_factory=dict)
    _answers: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def open(
        cls, model: Model, features: Mapping[str, Indices] | None = None, threads: int | None = None
    ) -> Teacher:
        """Open a session on a model.

        Args:
            model: The teacher.
            features: Tensors of it that are needed beside its outputs, and the kept elements of their axes.
            threads: Threads to compute with.

        Raises:
            UsageError: It has no such tensor.
        """
        for name in features or {}:
            if name not in model.main.producers:
                raise UsageError(f"the teacher has no tensor {name!r} to learn features from")
        names = [*(output.name for output in model.outputs), *(features or {})]
        probed = with_outputs(model.proto, names, TensorProto.FLOAT)
        return cls(Session(probed, threads=threads), features or {})

    def remember(self, data: Dataset) -> None:
        """Compute the outputs of all samples, if their number is known and the outputs fit into memory."""
        if data.samples is None:
            return
        parts: list[dict[str, Array]] = []
        row = itertools.count()
        with task("teacher", total=data.samples) as progress:
            for batch in data.batches(self.session.fixed_batch or _BATCH):
                parts.append(self._answer(batch))
                size = sum(array.nbytes for array in parts[0].values()) / max(batch.size, 1)
                if size * data.samples > REMEMBERED_BYTES or not self._joinable(parts[0], parts[-1]):
                    self._rows.clear()
                    return
                for key, number in zip(_keys(batch), row, strict=False):
                    self._rows[key] = number
                progress.advance(batch.size)
        self._answers = {
            name: np.concatenate([part[name] for part in parts], self._axes[name]) for name in parts[0]
        }

    def targets(self, batch: Batch) -> dict[str, Array]:
        """Return the teacher's outputs for a batch, by their names in the losses."""
        keys = _keys(batch) if self._answers else []
        if not self._answers or any(key not in self._rows for key in keys):
            return self._answer(batch)
        rows = np.array([self._rows[key] for key in keys])
        return {name: np.take(array, rows, self._axes[name]) for name, array in self._answers.items()}

    def _answer(self, batch: Batch) -> dict[str, Array]:
        rows = self.session.fixed_batch or batch.size
        made = self.session.run(batch.filled(rows))
        declared = {o.name: o.shape for o in self.session.outputs}
        axes = {n: made_axis(declared[n], a.shape, rows, self.session.batch_name) for n, a in made.items()}
        self._axes = {TEACHER + name: axis for name, axis in axes.items()}
        own = np.arange(batch.size)
        return {
            TEACHER + name: self._kept(name, array if axis is None else np.take(array, own, axis))
            for (name, array), axis in zip(made.items(), axes.values(), strict=True)
        }

    def _joinable(self, first: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
        """Return whether outputs can be concatenated along the samples: all other sizes are equal."""
        return all(
            (axis := self._axes[name]) is not None
            and np.delete(array.shape, axis).tolist() == np.delete(other[name].shape, axis).tolist()
            for name, array in first.items()
        )

    def _kept(self, name: str, array: Array) -> Array:
        for axis, indices in self.features.get(name, {}).items():
            array = np.take(array, indices, axis)
        return array


def _keys(batch: Batch) -> list[bytes]:
    """Return a digest of each sample's inputs."""
    digests = [hashlib.blake2b(digest_size=16) for _ in range(batch.size)]
    for name in batch.inputs:
        for digest, row in zip(digests, batch.by_sample(name), strict=True):
            digest.update(np.ascontiguousarray(row).data)
    return [digest.digest() for digest in digests]
