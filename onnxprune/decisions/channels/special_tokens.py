"""Rows of a vocabulary that programs use by number, apart from texts: padding, start, end.

The files beside a model name them: ``tokenizer.json`` (format of the library tokenizers) and
``tokenizer_config.json`` list the added tokens and which are special; configurations have entries such as
``eos_token_id`` (formats of transformers and of onnxruntime-genai).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxprune.decisions.channels.configuration import configurations
from onnxprune.ir import Model

_TOKENIZER = "tokenizer.json"
_MORE = ("generation_config.json", "tokenizer_config.json")
_ENDING = "_token_id"
LARGEST = 1 << 28
"""Bytes up to which such a file is read."""


def special_rows(model: Model, rows: int) -> list[int]:
    """Return the numbers of the special tokens that the files beside a model name, ascending.

    Args:
        model: The model, with the path of its file.
        rows: Number of rows of the vocabulary; larger numbers are left out.
    """
    found = {n for content in configurations(model).values() for n in _entries(content)}
    folder = model.path.parent if model.path else None
    for name in (_TOKENIZER, *_MORE) if folder else ():
        content = _read(folder / name) if folder else None
        found.update(_entries(content))
        found.update(_added(content))
    return sorted(n for n in found if 0 <= n < rows)


def _entries(content: Any) -> Iterator[int]:
    """Yield the numbers of all entries that are named as those of special tokens are."""
    if not isinstance(content, dict):
        return
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _entries(value)
        elif str(name).endswith((_ENDING, f"{_ENDING}s")):
            values = value if isinstance(value, list) else [value]
            yield from (v for v in values if isinstance(v, int) and not isinstance(v, bool))


def _added(content: Any) -> Iterator[int]:
    """Yield the numbers of the special tokens among those that a tokenizer has added."""
    if not isinstance(content, dict):
        return
    listed = content.get("added_tokens")
    for token in listed if isinstance(listed, list) else ():
        if isinstance(token, dict) and token.get("special") and isinstance(token.get("id"), int):
            yield token["id"]
    decoder = content.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if str(number).isdigit() and isinstance(token, dict) and token.get("special"):
            yield int(number)


def _read(place: Path) -> Any:
    """Return the content of a file, ``None`` where it is none that can be read."""
    try:
        if place.stat().st_size > LARGEST:
            return None
        return json.loads(place.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
