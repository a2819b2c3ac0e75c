"""Recurrent layers: gradients exist for one direction, with states to begin from given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, Untrainable, optional_input, sizes_of, values_of
from onnxprune.train.rewrites.registry import rewrites

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_LONGEST = 256
_SMALLEST = np.iinfo(np.int64).min + 1


@rewrites("LSTM", "GRU", form=True)
def gated(node: gs.Node, emit: Emitter) -> Any:
    """One layer for each direction, one of them on the sequence turned around."""
    _refuse(node)
    if optional_input(node, 7) is not None:
        raise Untrainable("the gradients of its peepholes are wrong")
    usual = _USUAL[node.op]
    for position, name in enumerate(node.attrs.get("activations", usual)):
        if name != usual[position % len(usual)]:
            raise Untrainable(f"its activation {name} is not the usual one")
    kept = {k: v for k, v in node.attrs.items() if k in ("hidden_size", "linear_before_reset")}
    results = []
    for index, backwards in enumerate(_DIRECTIONS[node.attrs.get("direction", "forward")]):
        x = _turned(node.inputs[0], emit, backwards)
        states = [_state(node, emit, index, place) for place in _STATES[node.op]]
        weights = [_direction(node, emit, index, place) for place in (1, 2, 3)]
        empty = gs.Variable.empty()
        made = emit(node.op, x, *weights, empty, *states, outputs=1 + len(states), **kept)
        results.append([_turned(made[0], emit, backwards), *made[1:]])
    return _joined(results, emit)


@rewrites("RNN")
def simple(node: gs.Node, emit: Emitter) -> Any:
    """Unrolled: every step is a matrix product of the last state, an addition and an activation."""
    _refuse(node)
    length = node.inputs[0].shape[0] if node.inputs[0].shape else None
    if not isinstance(length, int) or length > _LONGEST:
        raise Untrainable(f"its sequence has {length} steps; up to {_LONGEST} are unrolled")
    names = node.attrs.get("activations", ["Tanh"])
    results = []
    for index, backwards in enumerate(_DIRECTIONS[node.attrs.get("direction", "forward")]):
        activation = names[index % len(names)]
        if activation not in ("Tanh", "Relu", "Sigmoid"):
            raise Untrainable(f"its activation is {activation}")
        driven = _driven(node, emit, index, _turned(node.inputs[0], emit, backwards))
        recurrent = emit("Transpose", _direction(node, emit, index, 2), perm=[0, 2, 1])
        state, states = _state(node, emit, index, 5), []
        for step in range(length):
            now = emit("Slice", driven, emit.ints([step]), emit.ints([step + 1]), emit.ints([0]))
            state = emit(activation, emit("Add", now, emit("MatMul", state, recurrent)))
            states.append(state)
        sequence = emit("Unsqueeze", emit("Concat", *states, axis=0), emit.ints([1]))
        results.append([_turned(sequence, emit, backwards), state])
    return _joined(results, emit)


def _driven(node: gs.Node, emit: Emitter, index: int, x: gs.Tensor) -> Any:
    """The contribution of the input to each step, both biases included."""
    product = emit("MatMul", x, emit("Transpose", _direction(node, emit, index, 1), perm=[0, 2, 1]))
    if optional_input(node, 3) is None:
        return product
    hidden = sizes_of(node.inputs[2])[2]
    halves = emit("Reshape", _direction(node, emit, index, 3), emit.ints([2, hidden]))
    return emit("Add", product, emit.reduce("ReduceSum", halves, [0]))


def _refuse(node: gs.Node) -> None:
    """Refuse clipping, other layouts, coupled gates and sequences of different lengths."""
    if node.attrs.get("clip"):
        raise Untrainable("it clips its activations")
    if node.attrs.get("layout") or node.attrs.get("input_forget"):
        raise Untrainable("its layout, or the coupling of its gates, is not the usual one")
    lengths = optional_input(node, 4)
    if lengths is None:
        return
    steps = node.inputs[0].shape[0] if node.inputs[0].shape else None
    if not (values_of(lengths) == steps).all():
        raise Untrainable("its sequences differ in length")


def _turned(x: gs.Tensor, emit: Emitter, backwards: bool) -> gs.Tensor:
    """The steps in reverse order."""
    if not backwards:
        return x
    bounds = (emit.ints([value]) for value in (-1, _SMALLEST, 0, -1))
    turned: gs.Tensor = emit("Slice", x, *bounds)
    return turned


def _direction(node: gs.Node, emit: Emitter, index: int, place: int) -> Any:
    """Return one direction's part of an operand, the axis kept; an empty one stays that."""
    operand = optional_input(node, place)
    if operand is None:
        return gs.Variable.empty()
    if node.attrs.get("direction", "forward") != "bidirectional":
        return operand
    return emit("Slice", operand, emit.ints([index]), emit.ints([index + 1]), emit.ints([0]))


def _state(node: gs.Node, emit: Emitter, index: int, place: int) -> Any:
    """Return the state to begin from, zeros where none is given."""
    if optional_input(node, place) is not None:
        return _direction(node, emit, index, place)
    hidden = sizes_of(node.inputs[2])[2]
    batch = emit("Slice", emit("Shape", node.inputs[0]), emit.ints([1]), emit.ints([2]), emit.ints([0]))
    shape = emit("Concat", emit.ints([1]), batch, emit.ints([hidden]), axis=0)
    return emit("Expand", emit.floats(np.zeros((1, 1, 1))), shape)


def _joined(results: Sequence[Sequence[gs.Tensor]], emit: Emitter) -> list[Any]:
    """Put the results of both directions side by side."""
    if len(results) == 1:
        return list(results[0])
    sequences, *states = zip(*results, strict=True)
    return [emit("Concat", *sequences, axis=1), *(emit("Concat", *state, axis=0) for state in states)]
