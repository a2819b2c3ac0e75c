"""Values that are drawn for the inputs of a model: by their use in the graph, then by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.analysis.inputs.demand import ValueDemand
from onnxprune.analysis.inputs.input_demands import input_demands
from onnxprune.ir import Model
from onnxprune.runtime import TensorSpec, Values

UNKNOWN = 255
"""The largest whole number that is drawn where the graph sets no bound."""
_MASK = re.compile(r"mask", re.IGNORECASE)
_PADDED = re.compile(r"pad(ding)?_?mask|mask_?pad", re.IGNORECASE)
_LENGTH = re.compile(r"(^|[^a-z])len(s|gth|gths)?(\W|_|\d)*$", re.IGNORECASE)
_POSITION = re.compile(r"position|pos_?ids", re.IGNORECASE)


def input_values(
    model: Model, specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Values]:
    """Return the values that each input may be drawn from.

    Args:
        model: The model.
        specs: Its inputs, as the runtime has them.
        shapes: Full shapes of the inputs, by name.
    """
    demands = input_demands(model, shapes)
    return {s.name: _values(s, demands.get(s.name, ValueDemand()), specs, shapes) for s in specs}


def _values(
    spec: TensorSpec, demand: ValueDemand, specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> Values:
    if spec.dtype.kind == "b":
        return _flags(spec, demand)
    if spec.dtype.kind in "iu":
        return _numbers(spec, demand, specs, shapes)
    if spec.dtype.kind == "f":
        return _floats(spec, demand)
    return Values()


def _flags(spec: TensorSpec, demand: ValueDemand) -> Values:
    if demand.chooses:
        return Values(turns=(1, 0))
    if demand.wish is not None:
        return Values(constant=float(bool(demand.wish)))
    if _MASK.search(spec.name):
        return Values(constant=0 if _PADDED.search(spec.name) else 1)
    return Values()


def _floats(spec: TensorSpec, demand: ValueDemand) -> Values:
    if demand.choices:
        return Values(turns=demand.choices)
    if demand.wish is not None:
        return Values(constant=demand.wish)
    if demand.least is None and demand.most is None and (_MASK.search(spec.name) or _is_length(spec)):
        return Values(constant=1)
    most = demand.most if demand.most is not None or not demand.index else UNKNOWN
    return Values(least=demand.least, most=most, unbounded=_is_unbounded(demand))


def _numbers(
    spec: TensorSpec, demand: ValueDemand, specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> Values:
    single = int(np.prod(shapes[spec.name])) == 1
    turns = demand.choices or (demand.compared if single and not demand.index else ())
    if turns:
        return Values(turns=tuple(_held(spec, n, demand) for n in dict.fromkeys(turns)))
    if demand.index and _POSITION.search(spec.name):
        return Values(least=demand.least, most=demand.most, counted=True)
    wish = demand.wish if demand.firm or not demand.index else None
    wish = _by_name(spec, demand, specs, shapes) if wish is None else wish
    if wish is not None:
        return Values(constant=_held(spec, wish, demand))
    least, most = _bounds(spec, demand)
    compared = frozenset(demand.compared) | demand.avoided
    ends = tuple(int(n) for n in demand.compared if n not in demand.avoided and n == int(n))
    return Values(least=least, most=most, ends=ends, avoided=compared, unbounded=_is_unbounded(demand))


def _is_unbounded(demand: ValueDemand) -> bool:
    return demand.least is None and demand.most is None and not demand.index and not demand.length


def _by_name(
    spec: TensorSpec, demand: ValueDemand, specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> float | None:
    """Return the usual value of an input of such a name, where the graph has no other condition on it."""
    if demand.index:
        return None
    if _MASK.search(spec.name) or (demand.compared and set(demand.compared) <= {0, 1}):
        return 1
    if demand.length or (_is_length(spec) and demand.most is None):
        return _steps(spec, specs, shapes)
    return None


def _is_length(spec: TensorSpec) -> bool:
    return len(spec.shape) <= 1 and bool(_LENGTH.search(spec.name))


def _steps(
    spec: TensorSpec, specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    """Return the length of the sequences whose steps an input counts: those of the input named alike."""
    others = [s for s in specs if s.name != spec.name and len(s.shape) > 1]
    others.sort(key=lambda s: -_common(s.name, spec.name))
    batches = {s.shape[0] for s in specs if s.shape}
    for other in others:
        for size, known in zip(shapes[other.name][1:], other.shape[1:], strict=True):
            if not isinstance(known, int) and known not in batches:
                return size
    return max(shapes[others[0].name][1:]) if others else None


def _common(a: str, b: str) -> int:
    """Return the number of letters in the common prefix of two names."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _bounds(spec: TensorSpec, demand: ValueDemand) -> tuple[float, float]:
    info = np.iinfo(spec.dtype)
    whole = info.bits <= 16 and demand.least is None
    least = float(info.min) if whole else demand.least if demand.least is not None else 0.0
    most = float(info.max) if info.bits <= 16 else max(least, 0.0) + UNKNOWN
    most = demand.most if demand.most is not None else most
    return min(least, most), most


def _held(spec: TensorSpec, number: float, demand: ValueDemand) -> float:
    """Return a number within the bounds of the element type and of an index."""
    info = np.iinfo(spec.dtype)
    most = info.max if demand.most is None else min(demand.most, info.max)
    return float(max(min(number, most), info.min))
