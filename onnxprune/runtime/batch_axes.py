"""The axis of each tensor that counts the samples: mostly the first, sometimes another, sometimes none.

A state of a recurrent network is ``[layers, batch, width]``, a setting such as three scales has no samples at
all. The axis follows from the names of the axes, and where there are none, from the arrays that are fed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import onnx

Declared = Sequence[int | str | None]
Axes = dict[str, int | None]
_USUAL = re.compile(r"^(n|b|bs)$|batch", re.IGNORECASE)


class Spec(Protocol):
    """Name and declared shape of an input or output."""

    @property
    def name(self) -> str:
        """The tensor's name."""

    @property
    def shape(self) -> tuple[int | str | None, ...]:
        """One entry an axis: a size, a name, or ``None``."""


class Described(NamedTuple):
    """Name and declared shape of an input or output, as the file has them."""

    name: str
    shape: tuple[int | str | None, ...]


def described(values: Iterable[onnx.ValueInfoProto]) -> list[Described]:
    """Return the shapes of inputs or outputs that a file declares."""
    found = []
    for value in values:
        dims = value.type.tensor_type.shape.dim
        sizes = [int(d.dim_value) if d.dim_value > 0 else d.dim_param.strip("?") or None for d in dims]
        found.append(Described(value.name, tuple(sizes)))
    return found


def batch_name(inputs: Sequence[Spec], outputs: Sequence[Spec] = ()) -> str | None:
    """Return the name of the axis that counts samples, ``None`` where it has none.

    Of the names of first axes it is the one that most tensors have; of several a usual one.
    """
    first = [s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], str)]
    if not first:
        return None
    counts = Counter(name for s in (*inputs, *outputs) for name in set(s.shape))
    return max(dict.fromkeys(map(str, first)), key=lambda n: (counts[n], bool(_USUAL.search(n))))


def fixed_batch(inputs: Sequence[Spec]) -> int | None:
    """Return the samples a run if the file fixes them, ``None`` if not.

    Where all inputs begin with a number it is 1, or the most frequent one. Beside open inputs, a state of one
    sample fixes it too: ``[layers, 1, width]``.
    """
    state = any(len(s.shape) == 3 and s.shape[1] == 1 and isinstance(s.shape[0], int) for s in inputs)
    return _first_size(inputs) or (1 if state else None)


def _first_size(inputs: Sequence[Spec]) -> int | None:
    sizes = [s.shape[0] for s in inputs if s.shape]
    numbers = [n for n in sizes if isinstance(n, int)]
    if not numbers or len(numbers) < len(sizes):
        return None
    return 1 if 1 in numbers else Counter(numbers).most_common(1)[0][0]


def sample_axes(inputs: Sequence[Spec], outputs: Sequence[Spec], shapes: Mapping[str, Sequence[int]]) -> Axes:
    """Return the axis of each array that counts the samples, ``None`` for arrays that are the same for all.

    Args:
        inputs: The inputs of a model.
        outputs: Its outputs.
        shapes: The shapes of arrays named like them, or otherwise, by name.
    """
    name, first, fixed = batch_name(inputs, outputs), _first_size(inputs), fixed_batch(inputs)
    declared = {s.name: s.shape for s in (*outputs, *inputs)}
    axes: Axes = {n: _by_name(declared.get(n, ()), s, name, first) for n, s in shapes.items()}
    known = [s.name for s in inputs if s.name in shapes and axes[s.name] is not None]
    lengths = [shapes[n][a] for n in known if (a := axes[n]) is not None and a >= 0 and a < len(shapes[n])]
    for tensor, axis in axes.items():
        if axis == _OPEN:
            axes[tensor] = _by_size(declared[tensor], shapes[tensor], lengths[0] if lengths else None, fixed)
    return axes


def made_axis(declared: Declared, shape: Sequence[int], rows: int, name: str | None) -> int | None:
    """Return the axis of a result that counts the samples, ``None`` where there is none.

    Args:
        declared: Shape that the file declares for it; empty where there is none.
        shape: Its shape.
        rows: The samples that were fed.
        name: The name of the axis that counts samples.
    """
    if name is not None and name in declared and len(declared) == len(shape):
        return list(declared).index(name)
    if shape and shape[0] == rows:
        return 0
    others = [a for a, n in enumerate(shape) if n == rows and not _is_fixed(declared, a)]
    return others[0] if len(others) == 1 else None


_OPEN = -1


def _by_name(declared: Declared, shape: Sequence[int], name: str | None, first: int | None) -> int | None:
    if not declared or len(declared) != len(shape):
        return 0 if shape else None
    if name is not None and name in declared:
        return list(declared).index(name)
    if not isinstance(declared[0], int) or declared[0] == first:
        return 0
    return _OPEN


def _by_size(declared: Declared, shape: Sequence[int], samples: int | None, fixed: int | None) -> int | None:
    """Return the axis of an array whose first axis the file fixes at a number that is not the batch."""
    for axis in range(1, len(shape)):
        rest = (*declared[:axis], None, *declared[axis + 1 :])
        if declared[axis] in (None, fixed) and shape[axis] == samples and _fits(rest, shape):
            return axis
    if _fits(declared, shape):
        return None
    return 0


def _fits(declared: Declared, shape: Sequence[int]) -> bool:
    return all(not isinstance(d, int) or d == n for d, n in zip(declared, shape, strict=True))


def _is_fixed(declared: Declared, axis: int) -> bool:
    return axis < len(declared) and isinstance(declared[axis], int)
