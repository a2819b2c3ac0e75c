"""Recurrent layers of one direction, unrolled: the parts they share, and GRU."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.train.emit import Untrainable
from onnxprune.train.pullbacks.registry import ForwardNode, forward, pullback
from onnxprune.train.pullbacks.tape import Tape
from onnxprune.train.pullbacks.writer import Writer, ints

LONGEST = 1024
"""Steps that are unrolled."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a layer.

    Attributes:
        steps: Length of the sequence.
        samples: Sequences in a batch.
        inputs: Features of the data.
        hidden: Features of the state.
        gates: Number of gates.
    """

    steps: int
    samples: int
    inputs: int
    hidden: int
    gates: int

    @property
    def rows(self) -> int:
        """Return the rows of a matrix."""
        return self.gates * self.hidden

    @classmethod
    def of(cls, node: ForwardNode, tape: Tape, gates: int) -> Sizes:
        """Read the sizes of a node; raise `Untrainable` for one that cannot be unrolled."""
        steps, samples, inputs = tape.dims(node.inputs[0])
        if steps > LONGEST:
            raise Untrainable(f"its sequence has {steps} steps; up to {LONGEST} are unrolled")
        if node.input(4) or node.input(7):
            raise Untrainable("it has lengths of sequences or peepholes")
        return cls(steps, samples, inputs, tape.dims(node.inputs[2])[2], gates)


def parts(write: Writer, x: str, count: int, axis: int) -> list[str]:
    """Split into equal parts."""
    if count == 1:
        return [x]
    return write.several("Split", x, outputs=count, axis=axis, num_outputs=count)


def joined(write: Writer, pieces: list[str], axis: int = 0) -> str:
    """Join pieces along an axis."""
    return pieces[0] if len(pieces) == 1 else write("Concat", *pieces, axis=axis)


def begin(node: ForwardNode, tape: Tape, index: int, size: Sizes) -> str:
    """Return the state to begin from, [samples, hidden]."""
    if not node.input(index):
        return tape.writer.zeros([size.samples, size.hidden])
    return tape.writer.reshape(node.inputs[index], [size.samples, size.hidden])


def weights(node: ForwardNode, write: Writer, size: Sizes) -> tuple[str, str]:
    """Return both matrices without the axis of directions."""
    return (
        write.reshape(node.inputs[1], [size.rows, size.inputs]),
        write.reshape(node.inputs[2], [size.rows, size.hidden]),
    )


def finish(node: ForwardNode, write: Writer, size: Sizes, states: list[str]) -> None:
    """Write the sequence of the states, and the last one."""
    if node.output(0):
        shape = [size.steps, 1, size.samples, size.hidden]
        write("Reshape", joined(write, states), ints(shape), into=node.outputs[0])
    if node.output(1):
        write("Reshape", states[-1], ints([1, size.samples, size.hidden]), into=node.outputs[1])


def sum_of(write: Writer, a: str, b: str) -> str:
    """Add where both are there."""
    return write.add(a, b) if a and b else a or b


def arrived_states(node: ForwardNode, tape: Tape, size: Sizes) -> list[str]:
    """Return the gradient of each state of the sequence; empty names where it is unread."""
    if not node.output(0) or not tape.has(node.outputs[0]):
        return [""] * size.steps
    rows = [size.steps * size.samples, size.hidden]
    return parts(tape.writer, tape.writer.reshape(tape.gradient(node.outputs[0]), rows), size.steps, 0)


def last_state(node: ForwardNode, tape: Tape, index: int, size: Sizes) -> str:
    """Return the gradient of a last state; zeros where it is unread."""
    shape = [size.samples, size.hidden]
    if not node.output(index) or not tape.has(node.output(index)):
        return tape.writer.zeros(shape)
    return tape.writer.reshape(tape.gradient(node.outputs[index]), shape)


def give_weights(node: ForwardNode, tape: Tape, driven: str, recurrent: str, matrix: str = "") -> None:
    """Give the data and the weights theirs.

    Args:
        node: The layer.
        tape: Its tape.
        driven: Gradient of the product with the data's matrix, [steps · samples, rows].
        recurrent: Gradient of the product with the recurrent matrix, likewise.
        matrix: Gradient of the recurrent matrix, where it is no product of `recurrent` and the states.
    """
    write, saved = tape.writer, node.saved
    size: Sizes = saved["size"]
    if tape.wants(node.inputs[1]):
        value = write("Gemm", driven, saved["flat"], transA=1)
        tape.give(node.inputs[1], write.reshape(value, [1, size.rows, size.inputs]))
    if tape.wants(node.inputs[2]):
        value = matrix or write("Gemm", recurrent, joined(write, saved["hidden"][:-1]), transA=1)
        tape.give(node.inputs[2], write.reshape(value, [1, size.rows, size.hidden]))
    if tape.wants(node.input(3)):
        halves = [write.total(part, [0]) for part in (driven, recurrent)]
        tape.give(node.inputs[3], write.reshape(write("Concat", *halves, axis=0), [1, 2 * size.rows]))
    if tape.wants(node.inputs[0]):
        value = write("MatMul", driven, saved["w"])
        tape.give(node.inputs[0], write.reshape(value, [size.steps, size.samples, size.inputs]))


def give_states(node: ForwardNode, tape: Tape, states: dict[int, str]) -> None:
    """Give the states it began from theirs."""
    for index, value in states.items():
        if tape.wants(node.input(index)):
            tape.give(node.inputs[index], tape.writer.reshape(value, tape.dims(node.inputs[index])))


@forward("GRU")
def gated(node: ForwardNode, tape: Tape) -> None:
    """Gates in the order z, r and h; the reset gate acts before or after the product of the candidate."""
    write, size = tape.writer, Sizes.of(node, tape, 3)
    w, r = weights(node, write, size)
    after = bool(node.attributes.get("linear_before_reset"))
    flat = write.reshape(node.inputs[0], [size.steps * size.samples, size.inputs])
    input_bias, state_bias = _gru_biases(node, write, size, after)
    driven = parts(write, write("Gemm", flat, w, input_bias, transB=1), size.steps, 0)
    gate_rows, own_rows = write.several("Split", r, ints([2 * size.hidden, size.hidden]), outputs=2, axis=0)
    hidden = [begin(node, tape, 5, size)]
    gates, candidates, products = [], [], []
    for step in range(size.steps):
        two, one = write.several(
            "Split", driven[step], ints([2 * size.hidden, size.hidden]), outputs=2, axis=1
        )
        both = write("Sigmoid", write("Gemm", hidden[-1], gate_rows, two, transB=1))
        z, reset = parts(write, both, 2, 1)
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
    finish(node, write, size, hidden[1:])
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


def _gru_biases(node: ForwardNode, write: Writer, size: Sizes, after: bool) -> tuple[str | None, str | None]:
    """Return the biases of the products with the data, and with the state where the reset acts after."""
    if not node.input(3):
        return None, None
    halves = parts(write, write.reshape(node.inputs[3], [2 * size.rows]), 2, 0)
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
    size: Sizes = saved["size"]
    after = bool(node.attributes.get("linear_before_reset"))
    arrived, state = arrived_states(node, tape, size), last_state(node, tape, 1, size)
    driven: list[str] = [""] * size.steps
    recurrent: list[str] = [""] * size.steps
    reset_states: list[str] = [""] * size.steps
    for step in reversed(range(size.steps)):
        state = sum_of(write, state, arrived[step])
        before, candidate, both = saved["hidden"][step], saved["candidates"][step], saved["gates"][step]
        z, reset = parts(write, both, 2, 1)
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
        give_weights(node, tape, joined(write, driven), joined(write, recurrent))
    else:
        _give_gru_weights(node, tape, joined(write, driven), joined(write, reset_states))
    give_states(node, tape, {5: state})


def _give_gru_weights(node: ForwardNode, tape: Tape, driven: str, reset_states: str) -> None:
    """The candidate's rows of the recurrent matrix met the state that had been reset."""
    write, size = tape.writer, node.saved["size"]
    gates, own = write.several("Split", driven, ints([2 * size.hidden, size.hidden]), outputs=2, axis=1)
    before = joined(write, node.saved["hidden"][:-1])
    rows = [write("Gemm", gates, before, transA=1), write("Gemm", own, reset_states, transA=1)]
    give_weights(node, tape, driven, driven, write("Concat", *rows, axis=0))
