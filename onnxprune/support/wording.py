"""Text of others, made fit to be shown: names and messages of models, data and libraries.

A name in a file may hold any characters: sequences that move the cursor, characters that turn the direction
of writing, markup, a megabyte of letters. Here it becomes plain visible text.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_NAME = 240
"""Characters of a name that are shown; of a longer one both ends are."""
LONGEST_SENTENCE = 4000
INDENT = " " * 7
"""Indent of the further lines of a message, so that none looks like a message of its own."""
ENCODING_ERRORS = "onnxprune-plain"
"""The error handler of streams whose encoding has not all the characters that are written."""

_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of invisible characters: controls, formats, halves of pairs, separators."""
_PLAIN = {
    "→": "->",
    "−": "-",
    "×": "x",
    "…": "...",
    "±": "+-",
    "–": "-",
    "—": "-",
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
}
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=//)|(?<=\S)@(?=\S)")
_ENTITIES = {"&": "&amp;", "<": "&lt;"}


def shown(name: object, longest: int = LONGEST_NAME) -> str:
    """Return a name as it can be shown: without control characters, and no longer than a few lines."""
    return shortened(escaped(str(name)), longest)


def escaped(text: str) -> str:
    """Return a text in which all control characters are written as escape sequences of Python."""
    if text.isprintable():
        return text
    return "".join(_code(c) if unicodedata.category(c) in _ACTING else c for c in text)


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text without its middle if it is longer than so many characters."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def folded(text: str, longest: int) -> str:
    """Return an expression without the contents of its inner brackets if it is longer than the limit.

    The deepest brackets are emptied first, and only as many depths as needed; the outer form stays legible.

    Args:
        text: An expression, such as ``8*((n + 7)//8)``.
        longest: Limit of characters; a text that is longer without brackets too loses its middle.
    """
    depths, depth = [], 0
    for character in text:
        depth -= character == ")"
        depths.append(depth)
        depth += character == "("
    for most in range(max(depths, default=0), 0, -1):
        if len(text) <= longest:
            return text
        text, depths = _without_depth(text, depths, most)
    return shortened(text, longest)


def _without_depth(text: str, depths: Sequence[int], depth: int) -> tuple[str, list[int]]:
    """Put an ellipsis in the place of each run of characters of one depth."""
    kept: list[tuple[str, int]] = []
    for character, own in zip(text, depths, strict=True):
        if own < depth:
            kept.append((character, own))
        elif kept and kept[-1] != ("…", depth - 1):
            kept.append(("…", depth - 1))
    return "".join(c for c, _ in kept), [own for _, own in kept]


def sentence(text: str) -> str:
    """Return a message as it can be shown: line by line, further lines set in, words of limited length."""
    lines = [escaped(line).strip() for line in str(text).split("\n")]
    words = (" ".join(map(shortened, line.split(" "))) for line in lines if line)
    return shortened(f"\n{INDENT}".join(words), LONGEST_SENTENCE)


def percent(share: float) -> str:
    """Return a share in percent; a share below 1 is at most 99.9 %."""
    return f"{min(share * 100, 100 if share >= 1 else 99.9):.3g} %"


def clean(facts: Any) -> Any:
    """Return facts in which every text, names that are keys included, is as `shown` returns it."""
    if isinstance(facts, str):
        return shown(facts)
    if isinstance(facts, Mapping):
        found: dict[Any, Any] = {}
        for key, value in facts.items():
            name = shown(key) if isinstance(key, str) else key
            while name in found:  # long names that differ in their middle
                name = f"{name}'"
            found[name] = clean(value)
        return found
    if isinstance(facts, Sequence) and not isinstance(facts, bytes):
        return [clean(value) for value in facts]
    return facts


def in_markdown(text: object) -> str:
    """Return text that Markdown, in a cell of a table too, shows as it is: no HTML, link or emphasis."""
    plain = "".join(_ENTITIES.get(c, c) for c in escaped(str(text).replace("\n", " ")))
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", plain)


def in_toml(text: str) -> str:
    """Return text as a quoted string of TOML."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(_toml_code(c) if unicodedata.category(c) in _ACTING else c for c in plain) + '"'


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _toml_code(character: str) -> str:
    number = 0xFFFD if unicodedata.category(character) == "Cs" else ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: by a similar text, or by their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or _code(c) if ord(c) > 127 else c for c in found), error.end


codecs.register_error(ENCODING_ERRORS, _plainly)
