"""Texts as arrays of a transformer's inputs, by the tokenizer beside them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data.input_schema import LABELS, Schema
from onnxprune.evaluate.data.sources import DataPart, Source
from onnxprune.runtime import Array
from onnxprune.support.sample_files import TOKENIZER

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""The inputs of exported transformers that a tokenizer makes."""
_AT_ONCE = 256
"""Texts in memory at a time."""
_SHORTEST = 8
"""Tokens of the shortest padded text."""
_LINE = '{"text": "…", "text_pair": "…", "label": 0}; only text is needed'


@dataclass(frozen=True)
class _Text:
    text: str
    pair: str | None
    label: int | None


class TextSource(Source):
    """A ``.jsonl`` file, one text a line, with a ``tokenizer.json`` in the same folder.

    Texts of one length in tokens come together, so that none is padded; an input of fixed length is filled
    with padding, which the mask leaves out. So are, where the model takes a mask, shuffled texts, to the next
    power of two: they are trained on, and each length takes a graph of its own.

    Args:
        path: The file.
        schema: The model's inputs: `input_ids` and, where it has them, the mask, segments and positions.

    Raises:
        DataError: There is no tokenizer, or the model has other inputs.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.name = str(path)
        self._path, self._schema = path, schema
        unknown = [spec.name for spec in schema.inputs if spec.name not in _INPUTS]
        if unknown or "input_ids" not in {spec.name for spec in schema.inputs}:
            raise DataError(
                f"{path} holds texts; {schema}",
                f"texts fit a model of {_INPUTS[0]} and any of {', '.join(_INPUTS[1:])}; for other inputs "
                "write .npz files or give module:callable",
            )
        self._tokenizer, self._filler = _tokenizer(path.with_name(TOKENIZER))
        self._masked = "attention_mask" in {spec.name for spec in schema.inputs}
        sizes = {spec.shape[1] for spec in schema.inputs if len(spec.shape) == 2} - {None}
        self._length = next((size for size in sizes if isinstance(size, int)), None)
        self.samples = sum(1 for _ in self._texts())

    def parts(self, limit: int | None, rng: np.random.Generator | None) -> Iterator[DataPart]:
        """Yield the texts in parts of equal length, in the order of the file or shuffled."""
        texts = list(islice(self._texts(), limit))
        order = np.arange(len(texts)) if rng is None else rng.permutation(len(texts))
        for start in range(0, len(order), _AT_ONCE):
            encodings = [(texts[k], self._encoding(texts[k])) for k in order[start : start + _AT_ONCE]]
            if rng is not None and self._masked:
                _pad([encoding for _, encoding in encodings], self._filler)
            by_length = defaultdict(list)
            for text, encoding in encodings:
                by_length[len(encoding.ids)].append((text, _values(encoding)))
            for alike in by_length.values():
                yield self._part([text for text, _ in alike], [encoded for _, encoded in alike])

    def _part(self, texts: list[_Text], encoded: list[dict[str, list[int]]]) -> DataPart:
        arrays: dict[str, Array] = {}
        for spec in self._schema.inputs:
            arrays[spec.name] = np.asarray([e[spec.name] for e in encoded], spec.dtype)
        if all(text.label is not None for text in texts):
            arrays[LABELS] = np.asarray([text.label for text in texts], np.int64)
        rows = self._schema.check(arrays, self.name)
        return DataPart.of(self.name, arrays, self._schema.axes(arrays), rows)

    def _encoding(self, text: _Text) -> Any:
        """Return the tokens of a text, of the length that the model fixes."""
        found = self._tokenizer.encode(text.text, text.pair)
        if self._length is not None:
            found.truncate(self._length)
            found.pad(self._length, **self._filler)
        return found

    def _texts(self) -> Iterator[_Text]:
        try:
            with self._path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _text(line, f"line {number} of {self._path}")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self._path} cannot be read: {error}", "give a file of UTF-8 text") from error


def _pad(encodings: list[Any], filler: Mapping[str, Any]) -> None:
    """Pad to powers of two, but not beyond the longest."""
    longest = max(len(encoding.ids) for encoding in encodings)
    for encoding in encodings:
        encoding.pad(min(longest, max(_SHORTEST, 1 << (len(encoding.ids) - 1).bit_length())), **filler)


def _values(encoding: Any) -> dict[str, list[int]]:
    """Return the values of all inputs for one text."""
    return {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
        "position_ids": list(range(len(encoding.ids))),
    }


def _text(line: str, where: str) -> _Text:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}", f"one object a line: {_LINE}") from error
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise DataError(f"{where} has no text", f"one object a line: {_LINE}")
    pair, label = found.get("text_pair"), found.get("label")
    if not isinstance(pair, str | None) or isinstance(label, bool) or not isinstance(label, int | None):
        raise DataError(f"{where} has a pair that is no text, or a label that is no integer", _LINE)
    return _Text(found["text"], pair, label)


def _tokenizer(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read a tokenizer of Hugging Face's ``tokenizers``, and the token that it pads with.

    Its own truncation stays, its padding does not.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError(
            "texts are read by tokenizers, which is not installed", 'pip install "onnxprune[data]"'
        ) from error
    if not path.is_file():
        raise DataError(
            f"there is no {TOKENIZER} beside the texts: {path}", f"copy the model's {TOKENIZER} to that place"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"{path} is no tokenizer: {error}", "take the file of the model") from error
    own = tokenizer.padding or {}
    filler = {name: own[name] for name in ("pad_id", "pad_type_id", "pad_token") if name in own}
    tokenizer.no_padding()
    return tokenizer, filler
