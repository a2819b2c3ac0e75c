"""Recurrences over a sequence: each as a Scan along the second axis, as a Loop, and unrolled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

WIDTH, STATE, STEPS = 24, 4, 5
KINDS = ("scan", "loop", "unrolled")

SELECTIVE = """
    d1 = Unsqueeze (d, last)
    rate = Mul (d1, decay)
    kept = Exp (rate)
    b1 = Unsqueeze (b, middle)
    db = Mul (d1, b1)
    v1 = Unsqueeze (v, last)
    new = Mul (db, v1)
    old = Mul (kept, state)
    next = Add (old, new)
    c1 = Unsqueeze (c, last)
    read = MatMul (next, c1)
    step = Squeeze (read, last)
"""
"""A state space whose steps depend on the input: the state is [n, channels, state]."""
RETENTION = """
    b1 = Unsqueeze (b, middle)
    v1 = Unsqueeze (v, last)
    new = Mul (v1, b1)
    old = Mul (state, half)
    next = Add (old, new)
    c1 = Unsqueeze (c, middle)
    read = Mul (next, c1)
    step = ReduceSum <keepdims = 0> (read, last)
"""
"""Linear attention with a decay: values times keys are added up, and queries read them."""
GATED = """
    gate = Sigmoid (d)
    v1 = Unsqueeze (v, last)
    gate1 = Unsqueeze (gate, last)
    old = Mul (gate1, state)
    next = Add (old, v1)
    less = ReduceMean <axes = [2], keepdims = 0> (next)
    step = Mul (less, d)
"""
"""A linear recurrence with a gate for each channel."""
CELLS = {"selective": SELECTIVE, "retention": RETENTION, "gated": GATED}

GIVEN = {"v": WIDTH, "d": WIDTH, "b": STATE, "c": STATE}
"""Slices of a sequence that a cell reads, with their widths."""


def recurrence(cell: str, kind: str) -> onnx.ModelProto:
    """Return a network around a recurrence: projections, the recurrence, a gate, a projection.

    Args:
        cell: A key of `CELLS`.
        kind: One of `KINDS`; unrolled it has `STEPS` steps, otherwise as many as its input.
    """
    steps = STEPS if kind == "unrolled" else "t"
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[n,{steps},12] x) => (float[n,{steps},5] y) {{
        u = MatMul (x, stem)
        both = MatMul (u, into)
        v0, gate0 = Split <axis = 2> (both, halves)
        gate_of = Sigmoid (v0)
        vs = Mul (v0, gate_of)
        parts = MatMul (vs, parted)
        dr, bs, cs = Split <axis = 2> (parts, widths)
        d0 = MatMul (dr, wide)
        ds = Softplus (d0)
        decay0 = Exp (logs)
        decay = Neg (decay0)
        size = Shape (u)
        batch = Slice (size, zero, one)
        form = Concat <axis = 0> (batch, ending)
        start = ConstantOfShape (form)
        {_repeated(cell, kind)}
        scaled = Mul (vs, skip)
        more = Add (ys, scaled)
        gate1_of = Sigmoid (gate0)
        gated = Mul (more, gate1_of)
        z = MatMul (gated, out)
        stream = Add (u, z)
        y = MatMul (stream, head)
    }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), name) for name, v in _constants(cell).items()
    )
    onnx.checker.check_model(model)
    return model


def _constants(cell: str) -> Mapping[str, Any]:
    random = np.random.default_rng(6)

    def weight(*shape: int) -> Any:
        return (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    ending = 1 if cell == "gated" else STATE
    return {
        "stem": weight(12, 20),
        "into": weight(20, 2 * WIDTH),
        "parted": weight(WIDTH, 6 + 2 * STATE),
        "wide": weight(6, WIDTH),
        "logs": random.random((WIDTH, STATE)).astype(np.float32),
        "skip": weight(WIDTH),
        "out": weight(WIDTH, 20),
        "head": weight(20, 5),
        "half": np.float32(0.5),
        "halves": np.asarray([WIDTH, WIDTH]),
        "widths": np.asarray([6, STATE, STATE]),
        "ending": np.asarray([WIDTH, ending]),
        "zero": np.asarray([0]),
        "one": np.asarray([1]),
        "last": np.asarray([-1]),
        "middle": np.asarray([1]),
        "length": np.int64(1),
        "go": np.bool_(True),
    }


def _repeated(cell: str, kind: str) -> str:
    """Return the nodes that make ``ys`` of the sequences."""
    ending = 1 if cell == "gated" else STATE
    state = f"float[n,{WIDTH},{ending}]"
    slices = [name for name in GIVEN if re.search(rf"\b{name}\b", CELLS[cell])]
    if kind == "scan":
        given = ", ".join(f"float[n,{GIVEN[name]}] {name}" for name in slices)
        how = ", ".join(["1"] * len(slices))
        return f"""
        final, ys = Scan <num_scan_inputs = {len(slices)}, scan_input_axes = [{how}], scan_output_axes = [1],
            body = cell ({state} state, {given}) => ({state} next, float[n,{WIDTH}] step) {{ {CELLS[cell]} }}>
            (start, {", ".join(name + "s" for name in slices)})"""
    picked = "\n".join(f"{name} = Gather <axis = 1> ({name}s, turn)" for name in slices)
    if kind == "loop":
        return f"""
        turns = Gather (size, length)
        final, stack = Loop (turns, go, start) <body = cell (int64 turn, bool on, {state} state) =>
            (bool onward, {state} next, float[n,{WIDTH}] step) {{
            onward = Identity (on)
            {picked}
            {CELLS[cell]} }}>
        ys = Transpose <perm = [1, 0, 2]> (stack)"""
    made = [_numbered(picked + CELLS[cell] + "row = Unsqueeze (step, middle)", turn) for turn in range(STEPS)]
    rows = ", ".join(f"row_{turn}" for turn in range(STEPS))
    return "\n".join([*made, f"ys = Concat <axis = 1> ({rows})"])


def _numbered(text: str, turn: int) -> str:
    """Return the nodes of one turn with names of their own; the state is that of the turn before."""
    text = re.sub(r"\bstate\b", "before", text)
    own = {*re.findall(r"^ *(\w+) = ", text, re.MULTILINE), "turn"}
    text = re.sub(r"\w+", lambda found: f"{found[0]}_{turn}" if found[0] in own else found[0], text)
    text = text.replace("before", f"next_{turn - 1}" if turn else "start")
    return f"turn_{turn} = Constant <value = int64 {{{turn}}}> ()\n{text}"


RECURRENT = {
    f"{kind}_of_a_{cell}_recurrence": partial(recurrence, cell, kind)
    for cell, kind in (("selective", "scan"), ("selective", "loop"), ("retention", "scan"))
}
"""Networks whose certificates need the rules of Scan and Loop."""
