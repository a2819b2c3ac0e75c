"""Recurrent layers: the hidden channels are made, stored and read by the same node.

A removed channel has no rows in ``W``, ``R`` and ``B`` and no column in ``R``, so the other channels do not
depend on it, with any activations. Both directions keep the same channels: there is one
``hidden_size``.
"""

from __future__ import annotations

from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import Zeros, rule
from onnxprune.ops.views import INNER, LinearView, Operands

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ZERO_AT_ZERO = {"Tanh", "Relu", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "Softsign", "Elu"}


def _weights_and_states(zeros: Zeros) -> bool:
    """A channel whose weights, bias and initial states are zero stays zero."""
    return all(z is not False for z in zeros[1:])


def gates(_: Operands) -> list[LinearView]:
    """Return the linear views of a recurrent layer: in its data, and in its hidden state."""
    return [
        LinearView(0, -1, 1, -1, "gates", after="mixing"),
        LinearView(INNER, -1, 2, -1, "gates", after="mixing"),
    ]


@rule(*GATES, zero=_weights_and_states, linear=gates, parameters=(1, 2, 3))
def recurrent(c: Context) -> None:
    """Gates and directions stay; each gate has the same hidden channels."""
    count = GATES[c.node.op_type]
    batch_first = bool(c.attributes.get("layout", 0))
    x, y = ("n t i", "n t d h") if batch_first else ("t n i", "t d n h")
    state = "n d h" if batch_first else "d n h"
    weights = f"W[d ({count} h) i] R[d ({count} h) h] B[d ({2 * count} h)]"
    states = f"lengths[n] initial_h[{state}] initial_c[{state}] P[d (3 h)]"
    axes = c.match(f"X[{x}] {weights} {states} -> Y[{y}] Y_h[{state}] Y_c[{state}]")
    c.block(axes["d"], "the operator fixes the number of directions")
    c.block(axes["t"], "it moves along this axis")
    c.contract(axes["h"], 2, results=(0, 1), axis=2)
    c.weights(1, 2, 3, 5, 6, 7)
    c.follow_attribute("hidden_size", axes["h"])
    rows = (axes["t"], axes["n"], axes["d"], c.fixed(count, "gates"), axes["h"])
    c.works(*rows, axes["i"])
    c.works(*rows, axes["h"])
    if not candidates_are_zero(c):
        c.makes_no_zeros()


def candidates_are_zero(c: Context) -> bool:
    """Return whether the activations of candidate and cell states are zero at zero.

    In the order of the specification LSTM lists ``f g h`` for each direction, GRU ``f g``, RNN ``f``.
    """
    listed = c.attributes.get("activations")
    if not listed:
        return True
    count = {"GRU": 2, "RNN": 1}.get(c.node.op_type, 3)
    gate = 0 if c.node.op_type != "RNN" else None
    return all(name in ZERO_AT_ZERO for k, name in enumerate(listed) if k % count != gate)
