"""LSTM, GRU and RNN: hidden channels whose gates are cut out of all weights alike."""

from __future__ import annotations

import numpy as np

from onnxprune.certify.reading.quantised_definitions import ROUNDED_STATES
from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, Bounds, mul, only_zero
from onnxprune.certify.relations.relation import Lists, Relation, agree, combined, contracted, transposed
from onnxprune.certify.rules.node_pair import NodePair, rule

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": [b"Tanh"]}


@rule("LSTM", "GRU", "RNN")
def recurrent(pair: NodePair) -> list[Relation]:
    """``X[t n i] W[d (g h) i] R[d (g h) h] B[d (2 g h)] → Y[t d n h] Y_h[d n h] Y_c[d n h]``.

    A hidden channel whose rows of W, R and B are zero and whose initial state is, stays zero: LSTM and GRU
    mix tanh(0) = 0 with the state before, RNN is tanh(0) or relu(0). States that become integers
    by their range depend on removed channels that are not zero.
    """
    pair.same_attributes("hidden_size")
    gates = _GATES[pair.operator]
    batch_first = bool(pair.given.get("layout"))
    need(_keeps_zero(pair), "an activation that does not keep zero")
    x = pair.relation(0).exact().only(2)
    need(not x.free, "inputs that do not vary")
    pair.whole(4)
    weights, dense = (c.reshape(c.shape[0], gates, -1, c.shape[2]) for c in pair.constant(1))
    need(pair.number("hidden_size") == (weights.shape[2], dense.shape[2]), "another hidden size")

    def by_gate(values: Array) -> Array:
        return values.reshape(values.shape[0], gates, -1, values.shape[2])

    read = {3: x.lists[2].reshape(1, 1, 1, -1)} if 2 in x.lists else {}
    w = pair.match(1, read, by_gate, _gate_hints(pair, gates, weights.shape[2]))
    hidden = w.lists.get(2)
    need(set(w.lists) <= {2, 3} and (hidden is None or hidden.size == hidden.shape[2]), "gates that differ")
    _read_nothing_else(Relation(4, _widths(x), read), w, weights.shape)
    zero = (weights == 0).all((1, 3))
    zero &= _states(pair, gates, hidden, weights.shape)
    if pair.given.get(ROUNDED_STATES) and hidden is not None:
        gone = np.setdiff1d(np.arange(weights.shape[2]), hidden)
        need(zero[:, gone].all(), "a removed hidden channel may be the largest or the least")
    held = Bounds(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf))
    return _results(pair, hidden, held, batch_first)


def _keeps_zero(pair: NodePair) -> bool:
    given = pair.given.get("activations")
    expected = _DEFAULT[pair.operator] * (2 if pair.given.get("direction") == b"bidirectional" else 1)
    plain = given is None or [a.lower() for a in given] == [a.lower() for a in expected]
    return plain or (pair.operator == "RNN" and all(a.lower() == b"relu" for a in given or ()))


def _gate_hints(pair: NodePair, gates: int, hidden: int) -> dict[int, Array]:
    """Return the kept hidden channels by the certificate."""
    listed = pair.hints(1).get(1)
    if listed is None or listed.size != max(listed.shape) or listed.size % gates:
        return {}
    first = listed.reshape(gates, -1)[0]
    return {2: first.reshape(1, 1, -1, 1)} if (first < hidden).all() else {}


def _widths(x: Relation) -> Bounds:
    bounds = x.bounds.squashed(0).squashed(1)
    return bounds.moved(lambda v: v.reshape(1, 1, 1, -1))


def _read_nothing_else(operand: Relation, weights: Relation, shape: tuple[int, ...]) -> None:
    """Refuse unless the terms of the removed inputs of a product are zero."""
    parts = [(operand, (1, 1, 1, shape[3])), (weights, shape)]
    summed = contracted(combined(parts, lambda a, b: mul(only_zero(a), b)), 3, shape[3])
    need(summed.shift is None, "removed channels that are not zero are read")


def _states(pair: NodePair, gates: int, hidden: Array | None, shape: tuple[int, ...]) -> Array:
    """Check recurrent weights, biases and initial states; return which hidden channels stay zero."""
    count = shape[2]
    directions = shape[0]

    def by_gate(values: Array) -> Array:
        return values.reshape(values.shape[0], gates, -1, values.shape[2])

    both: Lists = {} if hidden is None else {2: hidden, 3: hidden.reshape(1, 1, 1, -1)}
    recurrence = pair.match(2, both, by_gate, {})
    zero = (by_gate(pair.constant(2)[0]) == 0).all((1, 3))
    if pair.has(3):
        kept = {} if hidden is None else {2: hidden.reshape(1, 1, -1)}
        bias = pair.match(3, kept, lambda v: v.reshape(v.shape[0], 2 * gates, -1), {})
        zero &= bias.bounds.zero.all(1)
    if pair.has(7):  # peepholes
        kept = {} if hidden is None else {2: hidden.reshape(1, 1, -1)}
        pair.match(7, kept, lambda v: v.reshape(v.shape[0], 3, -1), {})
    for place in (5, 6):
        if pair.has(place):
            zero &= _initial(pair, place, hidden, count)
    held = only_zero(Bounds(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf)))
    listed = {} if hidden is None else {3: hidden.reshape(1, 1, 1, -1)}
    state = Relation(4, held.moved(lambda v: v[:, None, None, :]), listed)
    parts = [(state, (directions, 1, 1, count)), (recurrence, (directions, gates, count, count))]
    if hidden is not None:
        summed = contracted(combined(parts, mul), 3, count)
        need(summed.shift is None, "removed hidden channels that are not zero are read")
    return np.asarray(zero)


def _initial(pair: NodePair, place: int, hidden: Array | None, count: int) -> Array:
    """Check an initial state; return which channels of it are zero, by direction."""
    batch_first = bool(pair.given.get("layout"))
    known = {} if hidden is None else {2: hidden.reshape(1, 1, -1)}
    state = pair.relation(place, known).exact().only(2)
    if batch_first:
        state = transposed(state, [1, 0, 2])
    need(pair.sizes(place)[0][2] == count, "an initial state of another size")
    need(
        pair.sizes(place)[1][2] == (count if hidden is None else hidden.size),
        "an initial state of another size",
    )
    mine = state.lists.get(2)
    if 2 not in state.free:
        whole = np.arange(count)
        need(
            agree(
                whole if mine is None else mine.reshape(-1), whole if hidden is None else hidden.reshape(-1)
            ),
            "an initial state of other channels",
        )
    return np.asarray(state.bounds.squashed(1).zero[:, 0, :])


def _results(pair: NodePair, hidden: Array | None, held: Bounds, batch_first: bool) -> list[Relation]:
    """Return the relations of all states and of the last ones; ``held`` is ``[directions, hidden]``."""

    def form(values: Array, rank: int) -> Array:
        if rank == 4:
            return values[None, None, :, :] if batch_first else values[None, :, None, :]
        return values[None, :, :] if batch_first else values[:, None, :]

    made = []
    for rank in (4, 3, 3):
        lists = {} if hidden is None else {rank - 1: hidden.reshape([1] * (rank - 1) + [-1])}
        bounds = Bounds(form(held.low, rank), form(held.high, rank))
        made.append(Relation(rank, bounds, lists))
    return made[: len(pair.sparse.output)]
