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
    return _with_constants(text, _constants(cell))


def _with_constants(text: str, constants: Mapping[str, Any]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()
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


def carried(stack: bool, bounded: bool = True) -> onnx.ModelProto:
    """Return an LSTM as Keras exports are converted: a while loop that carries its weights and counters.

    Args:
        stack: Give the states of all turns too.
        bounded: Give the loop the number of turns, too; otherwise the conditions alone end it.
    """
    wide = "hq = Identity (hn)" if stack else ""
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    net (float[n,t,8] x) => (float[n,5] y{", float[t,n,3] z" if stack else ""}) {{
        e = MatMul (x, stem)
        er = Relu (e)
        xs = Transpose <perm = [1, 0, 2]> (er)
        size = Shape (xs)
        turns = Gather (size, zero)
        batch = Slice (size, one, two)
        form = Concat <axis = 0> (batch, wide)
        start = ConstantOfShape (form)
        go = Less (zero, turns)
        i_, t_, h_, c_, k_, r_, b_{", stack" if stack else ""} =
            Loop ({"turns" if bounded else "most"}, go, zero, zero, start, start, kernel, recurrent, bias)
            <body = cell (int64 turn, bool on, int64 i, int64 time, float[n,16] h, float[n,16] c,
                float[p,q] ki, float[r,s] ri, float[v] bi) => (bool onward, int64 inext, int64 tnext,
                float[n,16] hn, float[n,16] cn, float[p,q] ko, float[r,s] ro, float[v] bo
                {", float[n,16] hq" if stack else ""}) {{
            xt = Gather <axis = 0> (xs, time)
            zx = MatMul (xt, ki)
            zh = MatMul (h, ri)
            z0 = Add (zx, zh)
            z1 = Add (z0, bi)
            gi, gf, gg, go_ = Split <axis = 1, num_outputs = 4> (z1)
            si = Sigmoid (gi)
            sf = Sigmoid (gf)
            tg = Tanh (gg)
            so = Sigmoid (go_)
            fc = Mul (sf, c)
            ig = Mul (si, tg)
            cn = Add (fc, ig)
            tc = Tanh (cn)
            hn = Mul (so, tc)
            {wide}
            tnext = Add (time, unit)
            inext = Add (i, unit)
            before = Less (tnext, turns)
            also = Less (inext, turns)
            onward = And (before, also)
            ko = Identity (ki)
            ro = Identity (ri)
            bo = Identity (bi)
        }}>
        hr = Relu (h_)
        y0 = MatMul (hr, head)
        y = Add (y0, shift)
        {"z = MatMul (stack, heads)" if stack else ""}
    }}"""
    random = np.random.default_rng(7)

    def weight(*shape: int) -> Any:
        return (random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    constants = {
        "stem": weight(8, 24),
        "kernel": weight(24, 64),
        "recurrent": weight(16, 64),
        "bias": weight(64),
        "head": weight(16, 5),
        "shift": weight(5),
        "zero": np.int64(0),
        "unit": np.int64(1),
        "one": np.asarray([1]),
        "two": np.asarray([2]),
        "wide": np.asarray([16]),
        **({"heads": weight(16, 3)} if stack else {}),
        **({} if bounded else {"most": np.int64(2**31 - 1)}),
    }
    return _with_constants(text, constants)


RECURRENT = {
    f"{kind}_of_a_{cell}_recurrence": partial(recurrence, cell, kind)
    for cell, kind in (("selective", "scan"), ("selective", "loop"), ("retention", "scan"))
} | {"loop_with_its_weights": partial(carried, stack=True)}
"""Networks whose certificates need the rules of Scan and Loop."""
