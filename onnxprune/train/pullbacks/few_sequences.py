"""LSTM of one direction on few sequences, unrolled, samples along the first axis.

Work without recurrence is done once for all steps: the products with the data, the factors of the gates, the
gradients of the weights. A step back then computes only the values that depend on the step after it.
"""

from __future__ import annotations

from onnxprune.train.pullbacks.recurrent import (
    Sizes,
    arrived_states,
    begin,
    finish,
    give_states,
    give_weights,
    joined,
    last_state,
    parts,
    sum_of,
    weights,
)
from onnxprune.train.pullbacks.registry import ForwardNode
from onnxprune.train.pullbacks.tape import Tape
from onnxprune.train.pullbacks.writer import ints


def unrolled(node: ForwardNode, tape: Tape) -> None:
    """Gates in the order i, o, f and c: three sigmoids side by side, one hyperbolic tangent."""
    write, size = tape.writer, Sizes.of(node, tape, 4)
    w, r = weights(node, write, size)
    flat = write.reshape(node.inputs[0], [size.steps * size.samples, size.inputs])
    bias = None
    if node.input(3):
        bias = write.total(write.reshape(node.inputs[3], [2, size.rows]), [0])
    driven = parts(write, write("Gemm", flat, w, bias, transB=1), size.steps, 0)
    before, cell = begin(node, tape, 5, size), begin(node, tape, 6, size)
    hidden, cells, sigmoids, candidates, bent = [before], [cell], [], [], []
    for step in range(size.steps):
        z = write("Gemm", hidden[-1], r, driven[step], transB=1)
        three, one = write.several("Split", z, ints([3 * size.hidden, size.hidden]), outputs=2, axis=1)
        gates, candidate = write("Sigmoid", three), write("Tanh", one)
        i, o, f = parts(write, gates, 3, 1)
        cells.append(write.add(write.mul(f, cells[-1]), write.mul(i, candidate)))
        bent.append(write("Tanh", cells[-1]))
        hidden.append(write.mul(o, bent[-1]))
        sigmoids.append(gates)
        candidates.append(candidate)
    finish(node, write, size, hidden[1:])
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


def unrolled_back(node: ForwardNode, tape: Tape) -> None:
    """Back through time; all factors that need no recurrence come first, in one piece."""
    write, saved = tape.writer, node.saved
    size: Sizes = saved["size"]
    every, candidate, bent = (joined(write, saved[k]) for k in ("sigmoids", "candidates", "bent"))
    i, o, f = parts(write, every, 3, 1)
    slopes = parts(write, write.mul(every, write.sub(1.0, every)), 3, 1)
    past = joined(write, saved["cells"][:-1])
    through = write.mul(o, write.sub(1.0, write.mul(bent, bent)))
    rising = write(
        "Concat",
        write.mul(candidate, slopes[0]),
        write.mul(bent, slopes[1]),
        write.mul(past, slopes[2]),
        write.mul(i, write.sub(1.0, write.mul(candidate, candidate))),
        axis=1,
    )
    through_at, rising_at, forget_at = (parts(write, x, size.steps, 0) for x in (through, rising, f))
    arrived = arrived_states(node, tape, size)
    state, cell = last_state(node, tape, 1, size), last_state(node, tape, 2, size)
    found: list[str] = [""] * size.steps
    for step in reversed(range(size.steps)):
        state = sum_of(write, state, arrived[step])
        through_state = write.mul(state, through_at[step])
        cell = sum_of(write, cell, through_state)
        spread = write("Concat", cell, state, cell, cell, axis=1)
        found[step] = write.mul(spread, rising_at[step])
        state = write("MatMul", found[step], saved["r"])
        cell = write.mul(cell, forget_at[step])
    give_weights(node, tape, joined(write, found), joined(write, found))
    give_states(node, tape, {5: state, 6: cell})
