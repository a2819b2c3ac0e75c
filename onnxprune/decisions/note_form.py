"""The common form of notes in a model's metadata: JSON of a known form, with a format number."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from onnxprune.errors import PlanError, UsageError
from onnxprune.support.json_forms import Form, read_form

T = TypeVar("T")


@dataclass(frozen=True)
class NoteForm:
    """A kind of note.

    Attributes:
        subject: The note in messages: ``the note on the rotation``.
        verb: Its verb, ``is`` or ``are``.
        form: The form of its content; see `onnxprune.support.json_forms`.
        version: The format number that is read.
        hint: The remedy for a note that cannot be read.
    """

    subject: str
    form: Form
    version: int
    hint: str
    verb: str = "is"

    def read(self, text: str, build: Callable[[Any], T]) -> T:
        """Read a note.

        Args:
            text: The note.
            build: Function from its content, which has the form, to the result; it raises `ValueError`
                where parts do not fit together.

        Raises:
            PlanError: The note is damaged, or of another version.
        """
        try:
            content = read_form(text, self.form)
            if content["format"] != self.version:
                raise PlanError(f"{self.subject} {self.verb} of another version", self.hint)
            return build(content)
        except (ValueError, UsageError, zlib.error) as error:
            raise PlanError(f"{self.subject} {self.verb} damaged: {error}", self.hint) from error
