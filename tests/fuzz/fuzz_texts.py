"""Changes to JSON, TOML and bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**400, 0.5, -1e308, float("nan"), float("inf"),
    "", "x", "-1", "a" * 1000, "\x1b[31m", "[/]", "../up", "\ud800", [], {}, [[]], [None], {"": None},
    {"a": {"b": [1]}},
)  # fmt: skip
_DEEP = 100_000


def mutated_json(text: str, draw: random.Random) -> str:
    """Change a JSON text: most often a value or a key in it, else its characters."""
    if draw.random() < 0.12:
        return _spoilt(text, draw)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _spoilt(text, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = _changed(content, draw)
    return json.dumps(content)


def _changed(content: Any, draw: random.Random) -> Any:
    """Change one entry at a random depth."""
    places = list(_places(content))
    if not places or draw.random() < 0.03:
        return copy.deepcopy(draw.choice(VALUES))
    holder, key = draw.choice(places)
    how = draw.randrange(6)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[draw.choice((f"{key}x", "", "a" * 300, "__class__", "\x1b[31m"))] = holder.pop(key)
    elif how == 2 and isinstance(holder, list):
        holder.extend(copy.deepcopy([holder[key]] * draw.choice((1, 2, 100))))
    elif how == 3:
        other, place = draw.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))
    elif how == 4 and isinstance(holder[key], int | float):
        holder[key] = draw.choice((holder[key] + 1, -holder[key], holder[key] * 1000, str(holder[key])))
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    return content


def _places(content: Any) -> Any:
    """Yield every place of a value inside lists and objects."""
    if not isinstance(content, dict | list):
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        yield from _places(value)


def _spoilt(text: str, draw: random.Random) -> str:
    cut = draw.randrange(len(text) + 1)
    return draw.choice(
        (
            text[:cut],
            text[:cut] + text[cut + 1 :],
            text[:cut] + draw.choice('{}[]",:0x\0é') + text[cut:],
            "[" * _DEEP,
            '{"a":' * _DEEP,
            text.replace("1", "9" * 5000, 1),
            "",
        )
    )


def mutated_toml(text: str, draw: random.Random) -> str:
    """Change lines of a TOML text, the values in them, or its characters."""
    if draw.random() < 0.15:
        return draw.choice((_spoilt(text, draw), f"x = {'[' * 5000}", f"{'a.' * 5000}b = 1"))
    lines = text.splitlines()
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(len(lines))
        key, equals, value = lines[place].partition("=")
        how = draw.randrange(5)
        if how == 0:
            del lines[place]
        elif how == 1:
            lines.insert(draw.randrange(len(lines)), lines[place])
        elif how == 2 and equals:
            lines[place] = f"{key}x = {value}"
        elif equals:
            lines[place] = f"{key}= {draw.choice(_TOML)}"
        if not lines:
            break
    return "\n".join(lines) + "\n"


_TOML = (
    "0", "-1", "1", "0.5", "nan", "inf", "1e400", "9" * 30, '""', '"x"', "true", "[]", "[1]", "{}", "{a = 1}",
    "1979-05-27",
    '"../x"', '"\\u001b[31m"', '"[/]"', "[[1], [2]]", '"l2"', '"sgd"', "",
)  # fmt: skip


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flip, cut, repeat or insert some bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(len(changed) + 1)
        how = draw.randrange(5)
        if how == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif how == 1:
            changed[place:] = b""
        elif how == 2:
            changed[place:place] = changed[place : place + draw.randrange(64)]
        elif how == 3:
            changed[place:place] = draw.randbytes(draw.randrange(1, 9))
        else:
            changed[place : place + draw.randrange(16)] = b""
        if not changed:
            break
    return bytes(changed)
