"""Notes of a sparse model about its original: statistics that later steps need.

A note in the file's metadata: a line of JSON, its arrays as 32-bit floats, compressed with zlib and written
in base64. It costs eight bytes for each channel of a convolution's result, before compression.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onnxprune.decisions.note_form import NoteForm
from onnxprune.support.json_forms import COUNT, FLAG, TEXT, MappingOf, Nullable

ORIGIN_KEY = "onnxprune.origin"
FORMAT = 1
_MOST_BYTES = 1 << 28
"""Bytes a note may unpack to: no model has so many channels."""
_FORM = {
    "format": COUNT,
    "near": FLAG,
    "file": Nullable(TEXT),
    "sha256": Nullable(TEXT),
    "channels": MappingOf(COUNT),
    "values": TEXT,
}
_NOTE = NoteForm("the note on the model before pruning", _FORM, FORMAT, "prune the original model again")

Moments: TypeAlias = "tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]"


@dataclass(frozen=True)
class Origin:
    """The facts about the model before pruning that a sparse model stores.

    Attributes:
        statistics: Mean and standard deviation of every channel of some tensors, each ``[channels]``.
        near: True if the sparse model answers nearly as that model did: it has been repaired or trained, and
            its own statistics are to be used.
        file: Path of that model's file, from the folder of the sparse model's.
        sha256: Digest of that file.
    """

    statistics: Mapping[str, Moments] = field(default_factory=dict)
    near: bool = False
    file: str | None = None
    sha256: str | None = None

    def to_text(self) -> str:
        """Return the note as one line of JSON."""
        parts = [np.asarray(part, "<f4").ravel() for pair in self.statistics.values() for part in pair]
        packed = zlib.compress(np.concatenate(parts).tobytes() if parts else b"", 9)
        content = {
            "format": FORMAT,
            "near": self.near,
            "file": self.file,
            "sha256": self.sha256,
            "channels": {name: len(mean) for name, (mean, _) in self.statistics.items()},
            "values": base64.b64encode(packed).decode("ascii"),
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Origin:
        """Read a note back.

        Raises:
            PlanError: It is damaged, or of a format this version does not read.
        """
        return _NOTE.read(text, cls._of)

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Origin:
        values = _unpacked(content["values"])
        statistics, start = {}, 0
        for name, count in content["channels"].items():
            mean, deviation = values[start : start + count], values[start + count : start + 2 * count]
            statistics[name], start = (mean, deviation), start + 2 * count
        if start != len(values) or not np.isfinite(values).all():
            raise ValueError(f"it has {len(values)} values for {start}, or some are not finite")
        return cls(statistics, content["near"], content["file"], content["sha256"])

    @classmethod
    def stored(cls, metadata: Mapping[str, str]) -> Origin | None:
        """Return the note among a model's metadata, ``None`` where there is none."""
        text = metadata.get(ORIGIN_KEY)
        return None if text is None else cls.from_text(text)


def _unpacked(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    if not unpacker.eof:
        raise ValueError("its values are cut short, or too many")
    return np.frombuffer(raw, "<f4").astype(np.float32)
