"""Recurrent layers of one direction, unrolled.

Work without recurrence is done once for all steps: the products with the data, the factors of the gates, the
gradients of the weights. A step back then computes only the values that depend on the step after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Tape
from onnxprune.train.pullbacks.writer import Writer, ints

LONGEST = 1024
"""Steps that are unrolled."""


@dataclass(frozen=True)
class _Sizes:
    steps: int
    samples: int
    inputs: int
    hidden: int
    gates: int

    @property
    def rows(self) -> int:
        return self.gates * self.hidden

    @classmethod
    def of(cls, node: ForwardNode, tape: Tape, gates: int) -> _Sizes:
        steps, samples, inputs = tape.dims(node.inputs[0])
        if steps > LONGEST:
            raise Untrainable(f"its sequence has {steps} steps; up to {LONGEST} are unrolled")
        if node.input(4) or node.input(7):
            raise Untrainable("it has lengths of sequences or peepholes")
        return cls(steps, samples, inputs, tape.dims(node.inputs[2])[2], gates)


def _parts(write: Writer, x: str, count: int, axis: int) -> list[str]:
    if count == 1:
        return [x]
    return write.several("Split", x, outputs=count, axis=axis, num_outputs=count)


def _joined(write: Writer, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else write("Concat", *parts, axis=0)


def _begin(node: ForwardNode, tape: Tape, index: int, size: _Sizes) -> str:
    """Return the state to begin from, [samples, hidden]."""
    if not node.input(index):
        return tape.writer.zeros([size.samples, size.hidden])
    return tape.writer.reshape(node.inputs[index], [size.samples, size.hidden])


def _weights(node: ForwardNode, write: Writer, size: _Sizes) -> tuple[str, str]:
    """Return both matrices without the axis of directions."""
    return (
        write.reshape(node.inputs[1], [size.rows, size.inputs]),
        write.reshape(node.inputs[2], [size.rows, size.hidden]),
    )


def _finish(node: ForwardNode, write: Writer, size: _Sizes, states: list[str]) -> None:
    """Write the sequence of the states, and the last one."""
    if node.output(0):
        shape = [size.steps, 1, size.samples, size.hidden]
        write("Reshape", _joined(write, states), ints(shape), into=node.outputs[0])
    if node.output(1):
        write("Reshape", states[-1], ints([1, size.samples, size.hidden]), into=node.outputs[1])


@forward("LSTM")
def long_short_term(node: ForwardNode, tape: Tape) -> None:
    """Gates in the order i, o, f and c: three sigmoids side by side, one hyperbolic tangent."""
    write, size = tape.writer, _Sizes.of(node, tape, 4)
    w, r = _weights(node, write, size)
    flat = write.reshape(node.inputs[0], [size.steps * size.samples, size.inputs])
    bias = None
    if node.input(3):
        bias = write.total(write.reshape(node.inputs[3], [2, size.rows]), [0])
    driven = _parts(write, write("Gemm", flat, w, bias, transB=1), size.steps, 0)
    before, cell = _begin(node, tape, 5, size), _begin(node, tape, 6, size)
    hidden, cells, sigmoids, candidates, bent = [before], [cell], [], [], []
    for step in range(size.steps):
        z = write("Gemm", hidden[-1], r, driven[step], transB=1)
        three, one = write.several("Split", z, ints([3 * size.hidden, size.hidden]), outputs=2, axis=1)
        gates, candidate = write("Sigmoid", three), write("Tanh", one)
        i, o, f = _parts(write, gates, 3, 1)
        cells.append(write.add(write.mul(f, cells[-1]), write.mul(i, candidate)))
        bent.append(write("Tanh", cells[-1]))
        hidden.append(write.mul(o, bent[-1]))
        sigmoids.append(gates)
        candidates.append(candidate)
    _finish(node, write, size, hidden[1:])
    if node.output(2):
        write("Reshape", cells[-1], ints([1, size.samples, size.hidden]), into=node.outputs[2])
    node.saved.update(
        size=size,
        w=w,
        r=r,
        flat=flat,
        hidden=hidden,
        cells=cells,
        sigmoids=sigmoids,
        candidates=candidates,
        bent=bent,
    )


@pullback("LSTM")
def long_short_term_back(node: ForwardNode, tape: Tape) -> None:
    """Back through time; all factors that need no recurrence come first, in one piece."""
    write, saved = tape.writer, node.saved
    size: _Sizes = saved["size"]
    every, candidate, bent = (_joined(write, saved[k]) for k in ("sigmoids", "candidates", "bent"))
    i, o, f = _parts(write, every, 3, 1)
    slopes = _parts(write, write.mul(every, write.sub(1.0, every)), 3, 1)
    past = _joined(write, saved["cells"][:-1])
    through = write.mul(o, write.sub(1.0, write.mul(bent, bent)))
    rising = write(
        "Concat",
        write.mul(candidate, slopes[0]),
        write.mul(bent, slopes[1]),
        write.mul(past, slopes[2]),
        write.mul(i, write.sub(1.0, write.mul(candidate, candidate))),
        axis=1,
    )
    through_at, rising_at, forget_at = (_parts(write, x, size.steps, 0) for x in (through, rising, f))
    arrived = _arrived(node, tape, size)
    state, cell = _last(node, tape, 1, size), _last(node, tape, 2, size)
    found: list[str] = [""] * size.steps
    for step in reversed(range(size.steps)):
        state = _sum(write, state, arrived[step])
        through_state = write.mul(state, through_at[step])
        cell = _sum(write, cell, through_state)
        spread = write("Concat", cell, state, cell, cell, axis=1)
        found[step] = write.mul(spread, rising_at[step])
        state = write("MatMul", found[step], saved["r"])
        cell = write.mul(cell, forget_at[step])
    _give_weights(node, tape, _joined(write, found), _joined(write, found))
    _give_states(node, tape, {5: state, 6: cell})


def _sum(write: Writer, a: str, b: str) -> str:
    """Add where both are there."""
    return write.add(a, b) if a and b else a or b


def _arrived(node: ForwardNode, tape: Tape, size: _Sizes) -> list[str]:
    """Return the gradient of each state of the sequence; empty names where it is unread."""
    if not node.output(0) or not tape.has(node.outputs[0]):
        return [""] * size.steps
    rows = [size.steps * size.samples, size.hidden]
    return _parts(tape.writer, tape.writer.reshape(tape.gradient(node.outputs[0]), rows), size.steps, 0)


def _last(node: ForwardNode, tape: Tape, index: int, size: _Sizes) -> str:
    """Return the gradient of a last state; zeros where it is unread."""
    shape = [size.samples, size.hidden]
    if not node.output(index) or not tape.has(node.output(index)):
        return tape.writer.zeros(shape)
    return tape.writer.reshape(tape.gradient(node.outputs[index]), shape)


def _give_weights(node: ForwardNode, tape: Tape, driven: str, recurrent: str, matrix: str = "") -> None:
    """Give the data and the weights theirs.

    Args:
        node: The layer.
        tape: Its tape.
        driven: Gradient of the product with the data's matrix, [steps · samples, rows].
        recurrent: Gradient of the product with the recurrent matrix, likewise.
        matrix: Gradient of the recurrent matrix, where it is no product of `recurrent` and the states.
    """
    write, saved = tape.writer, node.saved
    size: _Sizes = saved["size"]
    if tape.wants(node.inputs[1]):
        value = write("Gemm", driven, saved["flat"], transA=1)
        tape.give(node.inputs[1], write.reshape(value, [1, size.rows, size.inputs]))
    if tape.wants(node.inputs[2]):
        value = matrix or write("Gemm", recurrent, _joined(write, saved["hidden"][:-1]), transA=1)
        tape.give(node.inputs[2], write.reshape(value, [1, size.rows, size.hidden]))
    if tape.wants(node.input(3)):
        halves = [write.total(part, [0]) for part in (driven, recurrent)]
        tape.give(node.inputs[3], write.reshape(write("Concat", *halves, axis=0), [1, 2 * size.rows]))
    if tape.wants(node.inputs[0]):
        value = write("MatMul", driven, saved["w"])
        tape.give(node.inputs[0], write.reshape(value, [size.steps, size.samples, size.inputs]))


def _give_states(node: ForwardNode, tape: Tape, states: dict[int, str]) -> None:
    """Give the states it began from theirs."""
    for index, value in states.items():
        if tape.wants(node.input(index)):
            tape.give(node.inputs[index], tape.writer.reshape(value, tape.dims(node.inputs[index])))


@forward("GRU")
def gated(node: ForwardNode, tape: Tape) -> None:
    """Gates in the order z, r and h; the reset gate acts before or after the product of the candidate."""
    write, size = tape.writer, _Sizes.of(node, tape, 3)
    w, r = _weights(node, write, size)
    after = bool(node.attributes.get("linear_before_reset"))
    flat = write.reshape(node.inputs[0], [size.steps * size.samples, size.inputs])
    input_bias, state_bias = _gru_biases(node, write, size, after)
    driven = _parts(write, write("Gemm", flat, w, input_bias, transB=1), size.steps, 0)
    gate_rows, own_rows = write.several("Split", r, ints([2 * size.hidden, size.hidden]), outputs=2, axis=0)
    hidden = [_begin(node, tape, 5, size)]
    gates, candidates, products = [], [], []
    for step in range(size.steps):
        two, one = write.several(
            "Split", driven[step], ints([2 * size.hidden, size.hidden]), outputs=2, axis=1
        )
        both = write("Sigmoid", write("Gemm", hidden[-1], gate_rows, two, transB=1))
        z, reset = _parts(write, both, 2, 1)
        if after:
            product = write("Gemm", hidden[-1], own_rows, state_bias, transB=1)
            inner = write.add(one, write.mul(reset, product))
        else:
            product = write.mul(reset, hidden[-1])
            inner = write("Gemm", product, own_rows, one, transB=1)
        candidate = write("Tanh", inner)
        mixed = write.mul(z, write.sub(hidden[-1], candidate))
        hidden.append(write.add(candidate, mixed))
        gates.append(both)
        candidates.append(candidate)
        products.append(product)
    _finish(node, write, size, hidden[1:])
    node.saved.update(
        size=size,
        w=w,
        r=r,
        flat=flat,
        hidden=hidden,
        gates=gates,
        candidates=candidates,
        products=products,
        gate_rows=gate_rows,
        own_rows=own_rows,
    )


def _gru_biases(node: ForwardNode, write: Writer, size: _Sizes, after: bool) -> tuple[str | None, str | None]:
    """Return the biases of the products with the data, and with the state where the reset acts after."""
    if not node.input(3):
        return None, None
    halves = _parts(write, write.reshape(node.inputs[3], [2 * size.rows]), 2, 0)
    if not after:
        return write.add(*halves), None
    sizes = ints([2 * size.hidden, size.hidden])
    (gates_in, own_in), (gates_state, own_state) = (
        write.several("Split", half, sizes, outputs=2, axis=0) for half in halves
    )
    return write("Concat", write.add(gates_in, gates_state), own_in, axis=0), own_state


@pullback("GRU")
def gated_back(node: ForwardNode, tape: Tape) -> None:
    """Back through time."""
    write, saved = tape.writer, node.saved
    size: _Sizes = saved["size"]
    after = bool(node.attributes.get("linear_before_reset"))
    arrived, state = _arrived(node, tape, size), _last(node, tape, 1, size)
    driven: list[str] = [""] * size.steps
    recurrent: list[str] = [""] * size.steps
    reset_states: list[str] = [""] * size.steps
    for step in reversed(range(size.steps)):
        state = _sum(write, state, arrived[step])
        before, candidate, both = saved["hidden"][step], saved["candidates"][step], saved["gates"][step]
        z, reset = _parts(write, both, 2, 1)
        own = write.mul(write.mul(state, write.sub(1.0, z)), write.sub(1.0, write.mul(candidate, candidate)))
        mixed = write.mul(state, write.sub(before, candidate))
        carried = write.mul(state, z)
        if after:
            reset_slope = write.mul(own, saved["products"][step])
            through = write.mul(own, reset)
            carried = write.add(carried, write("MatMul", through, saved["own_rows"]))
        else:
            into = write("MatMul", own, saved["own_rows"])
            reset_slope, through = write.mul(into, before), own
            carried = write.add(carried, write.mul(into, reset))
            reset_states[step] = saved["products"][step]
        slopes = write.mul(both, write.sub(1.0, both))
        gate_part = write.mul(write("Concat", mixed, reset_slope, axis=1), slopes)
        state = write.add(carried, write("MatMul", gate_part, saved["gate_rows"]))
        driven[step] = write("Concat", gate_part, own, axis=1)
        recurrent[step] = write("Concat", gate_part, through, axis=1)
    if after:
        _give_weights(node, tape, _joined(write, driven), _joined(write, recurrent))
    else:
        _give_gru_weights(node, tape, _joined(write, driven), _joined(write, reset_states))
    _give_states(node, tape, {5: state})


def _give_gru_weights(node: ForwardNode, tape: Tape, driven: str, reset_states: str) -> None:
    """The candidate's rows of the recurrent matrix met the state that had been reset."""
    write, size = tape.writer, node.saved["size"]
    gates, own = write.several("Split", driven, ints([2 * size.hidden, size.hidden]), outputs=2, axis=1)
    before = _joined(write, node.saved["hidden"][:-1])
    rows = [write("Gemm", gates, before, transA=1), write("Gemm", own, reset_states, transA=1)]
    _give_weights(node, tape, driven, driven, write("Concat", *rows, axis=0))
