"""The note of a rotated model: the axes that are in another basis than in the file it was made from.

Weights along these axes cannot be compared with those of the unrotated model, and a plan or an analysis of
one basis cannot be used in another. The note carries a digest of the bases, so that both are distinguished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxprune.errors import PlanError
from onnxprune.support.json_forms import COUNT, TEXT, read_form

BASIS_KEY = "onnxprune.basis"
FORMAT = 1
_FORM = {"format": COUNT, "digest": TEXT, "axes": [TEXT]}


@dataclass(frozen=True)
class Rotation:
    """The change of basis of a model.

    Attributes:
        digest: Digest of all bases.
        axes: The groups that are in a new basis, by name.
    """

    digest: str
    axes: Sequence[str] = ()

    def to_text(self) -> str:
        """Return the note as one line of JSON."""
        content = {"format": FORMAT, "digest": self.digest, "axes": list(self.axes)}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def stored(cls, metadata: Mapping[str, str]) -> Rotation | None:
        """Return the note among a model's metadata, ``None`` where there is none.

        Raises:
            PlanError: It is damaged, or of a format this version does not read.
        """
        text = metadata.get(BASIS_KEY)
        if text is None:
            return None
        hint = "rotate the original model again"
        try:
            content = read_form(text, _FORM)
        except ValueError as error:
            raise PlanError(f"the note on the rotation is damaged: {error}", hint) from error
        if content["format"] != FORMAT:
            raise PlanError("the note on the rotation is of another version", hint)
        return cls(str(content["digest"]), tuple(map(str, content["axes"])))


def basis_of(metadata: Mapping[str, str]) -> str | None:
    """Return the digest of a model's basis; ``None`` for a model that was not rotated."""
    found = Rotation.stored(metadata)
    return found.digest if found else None


def check_basis(wanted: str | None, found: str | None, named: str, hint: str) -> None:
    """Refuse a file or object of another basis.

    Args:
        wanted: The digest of the model's basis, ``None`` for one that was not rotated.
        found: The digest of the basis of the file or object that is to be used with it.
        named: The latter, in words.
        hint: The way out.

    Raises:
        PlanError: The two differ.
    """
    if wanted == found:
        return
    if wanted is not None and found is not None:
        raise PlanError(f"{named} belongs to another basis than this rotated model", hint)
    kinds = ["not rotated" if digest is None else "rotated" for digest in (found, wanted)]
    raise PlanError(f"{named} belongs to a model that is {kinds[0]}, and this one is {kinds[1]}", hint)
