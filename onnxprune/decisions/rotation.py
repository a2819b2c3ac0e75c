"""The note of a rotated model: the axes that are in another basis than in the file it was made from.

Weights along these axes cannot be compared with those of the unrotated model, and a plan or an analysis of
one basis cannot be used in another. The note carries a digest of the bases, so that both are distinguished.
A second note holds the maps themselves: the file that was rotated is put into the same bases by them. They
are 32-bit floats (64-bit ones along weights of double precision), compressed with zlib, written in base64.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np

from onnxprune.decisions.note_form import NoteForm
from onnxprune.errors import PlanError
from onnxprune.support.json_forms import COUNT, TEXT, MappingOf
from onnxprune.support.memory import need

BASIS_KEY = "onnxprune.basis"
MAPS_KEY = "onnxprune.basis_maps"
FORMAT = 1
_FORM = {"format": COUNT, "digest": TEXT, "axes": [TEXT], "absorbed?": [TEXT]}
_MAP = {"shape": [COUNT], "dtype": TEXT}
_MAPS = {"format": COUNT, "axes": MappingOf(_MAP), "values": TEXT}
_DTYPES = ("<f4", "<f8")
_HINT = "rotate the original model again"
_NOTE = NoteForm("the note on the rotation", _FORM, FORMAT, _HINT)
_MAPS_NOTE = NoteForm("the maps of the rotation", _MAPS, FORMAT, _HINT, "are")

Maps: TypeAlias = "Mapping[str, np.ndarray[Any, np.dtype[Any]]]"
"""Maps by the name of the axis: ``[elements of the outer factors, channels, channels]`` each."""


@dataclass(frozen=True)
class Rotation:
    """The change of basis of a model.

    Attributes:
        digest: Digest of all bases.
        axes: The groups that are in a new basis, by name.
        absorbed: The groups whose normalisations were absorbed, by name.
    """

    digest: str
    axes: Sequence[str] = ()
    absorbed: Sequence[str] = ()

    def to_text(self) -> str:
        """Return the note as one line of JSON."""
        content = {"format": FORMAT, "digest": self.digest, "axes": list(self.axes)}
        content |= {"absorbed": list(self.absorbed)} if self.absorbed else {}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def stored(cls, metadata: Mapping[str, str]) -> Rotation | None:
        """Return the note among a model's metadata, ``None`` where there is none.

        Raises:
            PlanError: It is damaged, or of a format this version does not read.
        """
        text = metadata.get(BASIS_KEY)
        return None if text is None else _NOTE.read(text, cls._of)

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Rotation:
        absorbed = tuple(map(str, content.get("absorbed", ())))
        return cls(str(content["digest"]), tuple(map(str, content["axes"])), absorbed)


@dataclass(frozen=True)
class Bases:
    """A change of basis with its maps.

    Attributes:
        note: The axes, and the digest of the maps.
        maps: The map of each axis.
    """

    note: Rotation
    maps: Maps

    @classmethod
    def of(cls, maps: Maps, absorbed: Sequence[str] = ()) -> Bases:
        """Note the maps of a rotation, and the groups whose normalisations it absorbed."""
        return cls(Rotation(_digest(maps), tuple(maps), tuple(absorbed)), maps)

    def to_metadata(self) -> dict[str, str]:
        """Return both notes, by the key of the metadata."""
        packed = zlib.compress(b"".join(_stored(m).tobytes() for m in self.maps.values()), 9)
        axes = {n: {"shape": m.shape, "dtype": _stored(m).dtype.str} for n, m in self.maps.items()}
        content = {"format": FORMAT, "axes": axes, "values": base64.b64encode(packed).decode("ascii")}
        return {BASIS_KEY: self.note.to_text(), MAPS_KEY: json.dumps(content, separators=(",", ":"))}

    @classmethod
    def stored(cls, metadata: Mapping[str, str]) -> Bases | None:
        """Return the maps among a model's metadata; ``None`` for a model without any.

        Raises:
            PlanError: They are damaged, or of a format this version does not read.
        """
        note, text = Rotation.stored(metadata), metadata.get(MAPS_KEY)
        if note is None or text is None:
            return None
        maps = _MAPS_NOTE.read(text, lambda content: _unpacked(content["axes"], content["values"]))
        if tuple(maps) != tuple(note.axes) or _digest(maps) != note.digest:
            raise PlanError("the maps of the rotation are damaged: they are not those of its digest", _HINT)
        return cls(note, maps)


def _stored(values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a map in the order of bytes in which it is stored."""
    return np.ascontiguousarray(values, "<f8" if values.dtype == np.float64 else "<f4")


def _digest(maps: Maps) -> str:
    digest = sha256()
    for values in maps.values():
        digest.update(_stored(values).tobytes())
    return digest.hexdigest()[:32]


def _unpacked(axes: Mapping[str, Mapping[str, Any]], text: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the maps in a note.

    Raises:
        ValueError: Their sizes do not fit, or a number is not finite.
        PlanError: They need more memory than is allowed.
    """
    sizes = {}
    for name, axis in axes.items():
        shape, dtype = axis["shape"], axis["dtype"]
        if len(shape) != 3 or shape[1] != shape[2] or not all(shape) or dtype not in _DTYPES:
            raise ValueError(f"the map of '{name}' has the shape {shape}, type {dtype}")
        sizes[name] = math.prod(shape) * np.dtype(dtype).itemsize
    expected = sum(sizes.values())
    need(expected, "the note of the maps of the rotation", PlanError)
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(base64.b64decode(text, validate=True), expected + 1)
    if len(raw) != expected:
        raise ValueError(f"its values are not {expected} bytes")
    maps, start = {}, 0
    for name, axis in axes.items():
        values = np.frombuffer(raw[start : start + sizes[name]], axis["dtype"]).reshape(axis["shape"])
        if not np.isfinite(values).all():
            raise ValueError(f"the map of '{name}' is not finite")
        maps[name], start = values, start + sizes[name]
    return maps


def basis_of(metadata: Mapping[str, str]) -> str | None:
    """Return the digest of a model's basis; ``None`` for a model that was not rotated."""
    found = Rotation.stored(metadata)
    return found.digest if found else None


def check_basis(expected: str | None, found: str | None, named: str, hint: str) -> None:
    """Refuse a file or object of another basis.

    Args:
        expected: The digest of the model's basis, ``None`` for one that was not rotated.
        found: The digest of the basis of the file or object that is to be used with it.
        named: The latter, in words.
        hint: The way out.

    Raises:
        PlanError: The two differ.
    """
    if expected == found:
        return
    if expected is not None and found is not None:
        raise PlanError(f"{named} belongs to another basis than this rotated model", hint)
    kinds = ["not rotated" if digest is None else "rotated" for digest in (found, expected)]
    raise PlanError(f"{named} belongs to a model that is {kinds[0]}, and this one is {kinds[1]}", hint)
