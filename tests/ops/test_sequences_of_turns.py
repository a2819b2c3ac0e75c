"""Lists that a loop fills: their elements have axes, and the network the reach of its other spellings.

Every network is pruned exactly at lengths that nothing has tried.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from helpers import half_of_each, prune_exactly
from onnx import numpy_helper, parser

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.reach import reach_of
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Transform

HIDDEN, WIDTH = 16, 24
LENGTHS = (1, 3, 6)
NUMBERS = {"zero": 0, "zeros": [0], "one": 1, "ones": [1], "twos": [2], "threes": [3], "width": [HIDDEN]}
WEIGHTS = {
    "embed": (8, WIDTH),
    "take": (WIDTH, HIDDEN),
    "turn": (HIDDEN, HIDDEN),
    "bias": (HIDDEN,),
    "read": (HIDDEN, 5),
    "wide": (3 * HIDDEN, 5),
}
BEFORE = """
    e = MatMul(x, embed)  er = Relu(e)  steps = Transpose<perm = [1, 0, 2]>(er)  shape = Shape(steps)
    length = Gather<axis = 0>(shape, zero)  batch = Slice(shape, ones, twos)
    sizes = Concat<axis = 0>(batch, width)  h0 = ConstantOfShape(sizes)  none = SequenceEmpty<dtype = 1>()
"""
CELL = """
    xt = Gather<axis = 0>(steps, i)  a = MatMul(xt, take)  b = MatMul(h, turn)  c = Add(a, b)
    d = Add(c, bias)  next = Tanh(d)
"""
LIST = "seq(float[q1, q2])"


def model(body: str, y: str = "float[a1, a2, a3]", more: str = "") -> Model:
    proto = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, t, 8] x{more}) => ({y} y) {{ {BEFORE} {body} }}""")
    random = np.random.default_rng(0)
    tensors = {name: random.normal(0, 0.4, shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    tensors |= {name: np.asarray(value) for name, value in NUMBERS.items()} | {"true": np.asarray(True)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(v, n) for n, v in tensors.items() if n in body + BEFORE
    )
    return check(Model(proto))


def loop(inserted: str, after: str, given: str = "none", turns: str = "length") -> str:
    """Return a recurrence whose loop puts a tensor into a list in each turn, and the nodes behind it."""
    return f"""
        last, all = Loop({turns}, true, h0, {given}) <
            body = turn (int64 i, bool on, float[n, {HIDDEN}] h, {LIST} held)
                => (bool go, float[n, {HIDDEN}] next, {LIST} grown) {{
                go = Identity(on)  {CELL}  {inserted} }}>
        {after}"""


def pruned(given: Model, more: Mapping[str, np.ndarray] | None = None) -> Channels:
    """Remove half of each group exactly, at other lengths than any, and return the groups."""
    channels = find_channels(given)
    random = np.random.default_rng(4)
    feeds = [
        {"x": random.normal(size=(2, length, 8)).astype(np.float32), **(more or {})} for length in LENGTHS
    ]
    outcome = prune_exactly(given, half_of_each(channels), channels, feeds=feeds)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    return channels


STACKED = "grown = SequenceInsert(held, next)"
BEHIND = {
    "stacked": (
        STACKED,
        "s = ConcatFromSequence<axis = 1, new_axis = 1>(all)  r = Relu(s)  y = MatMul(r, read)",
    ),
    "stacked in front": (
        STACKED,
        "s = ConcatFromSequence<axis = 0, new_axis = 1>(all)  r = Relu(s)  p = MatMul(r, read) "
        "y = Transpose<perm = [1, 0, 2]>(p)",
    ),
    "end to end": (
        "row = Unsqueeze(next, ones)  grown = SequenceInsert(held, row)",
        "s = ConcatFromSequence<axis = 1>(all)  r = Relu(s)  y = MatMul(r, read)",
    ),
    "put in front": (
        "grown = SequenceInsert(held, next, zero)",
        "s = ConcatFromSequence<axis = -2, new_axis = 1>(all)  y = MatMul(s, read)",
    ),
    "the last one": (
        STACKED,
        "n1 = SequenceLength(all)  n2 = Sub(n1, one)  l = SequenceAt(all, n2)  p = MatMul(l, read) "
        "y = Unsqueeze(p, ones)",
    ),
    "all but one": (
        STACKED,
        "few = SequenceInsert(all, last)  less = SequenceErase(few, zero) "
        "s = ConcatFromSequence<axis = 1, new_axis = 1>(less)  y = MatMul(s, read)",
    ),
    "attention": (
        STACKED,
        "s = ConcatFromSequence<axis = 1, new_axis = 1>(all)  st = Transpose<perm = [0, 2, 1]>(s) "
        "scores = MatMul(s, st)  soft = Softmax<axis = -1>(scores)  v = MatMul(soft, s)  y = MatMul(v, read)",
    ),
}


@pytest.mark.parametrize("how", BEHIND)
def test_lists_of_states_have_the_axes_of_a_state(how: str) -> None:
    channels = pruned(model(loop(*BEHIND[how])))
    assert sorted(g.size for g in channels.groups) == [HIDDEN, WIDTH]
    assert reach_of(channels).params == 1
    assert not reach_of(channels).uncounted


def test_a_list_reaches_what_scan_outputs_and_single_turns_reach() -> None:
    inserted, after = BEHIND["stacked"]
    scan = f"""last, s0 = Loop(length, true, h0) <
        body = turn (int64 i, bool on, float[n, {HIDDEN}] h)
            => (bool go, float[n, {HIDDEN}] next, float[n, {HIDDEN}] out) {{
            go = Identity(on)  {CELL}  out = Identity(next) }}>
        s = Transpose<perm = [1, 0, 2]>(s0)  r = Relu(s)  y = MatMul(r, read)"""
    found = [reach_of(find_channels(model(text))) for text in (loop(inserted, after), scan)]
    assert found[0].params == found[1].params == 1
    assert found[0].macs == found[1].macs


def test_the_past_is_read_inside_the_loop() -> None:
    """Each turn adds the first element of the list to its state."""
    inside = """
        count = SequenceLength(held)  any = Greater(count, zero)
        past = If(any) <then_branch = some () => (float[b1, b2] was) { was = SequenceAt(held, zero) },
                        else_branch = none () => (float[c1, c2] own) { own = Identity(next) }>
        both = Add(past, next)  grown = SequenceInsert(held, both)"""
    channels = pruned(model(loop(inside, BEHIND["stacked"][1])))
    assert reach_of(channels).params == 1


def test_lists_of_two_branches_are_one() -> None:
    text = f"""both = If(flag) <
            then_branch = one () => ({LIST} l1) {{
                u = MatMul(er2, take)  v = Relu(u)  l1 = SequenceConstruct(v, u) }},
            else_branch = two () => ({LIST} l2) {{ w = MatMul(er2, take2)  l2 = SequenceInsert(none, w) }}>
        s = SequenceAt(both, zero)  r = Relu(s)  p = MatMul(r, read)  y = Unsqueeze(p, ones)"""
    text = "er2 = ReduceMean<axes = [1], keepdims = 0>(er)  take2 = Mul(take, two) " + text
    proto = model(text, more=", bool flag, float[1] two").proto
    for flag in (True, False):
        given = {"flag": np.asarray(flag), "two": np.asarray([2], np.float32)}
        channels = pruned(check(Model(proto)), given)
        assert reach_of(channels).params > 0.9


def test_elements_end_to_end_along_their_channels_lose_the_same_ones_each() -> None:
    """The number of turns is fixed: three states side by side are read by one matrix."""
    text = loop(
        STACKED,
        "s = ConcatFromSequence<axis = 1>(all)  p = MatMul(s, wide)  y = Unsqueeze(p, ones)",
        turns="three",
    )
    given = model("three = Squeeze(threes)" + text)
    channels = find_channels(given)
    random = np.random.default_rng(4)
    feeds = [{"x": random.normal(size=(2, 5, 8)).astype(np.float32)}]
    outcome = prune_exactly(given, half_of_each(channels), channels, feeds=feeds)
    assert outcome.error <= 1e-5
    assert HIDDEN in [g.size for g in channels.groups]


def test_a_list_that_starts_with_other_elements() -> None:
    text = loop(STACKED, BEHIND["stacked"][1], given="first")
    start = "m = ReduceMean<axes = [1], keepdims = 0>(er)  f = MatMul(m, take)  first = SequenceConstruct(f)"
    assert reach_of(pruned(model(start + text))).params == 1


def test_axes_that_differ_from_element_to_element_stay() -> None:
    """Each turn puts in a row more than the turn before."""
    inside = "upto = Add(i, one)  end = Unsqueeze(upto, zeros)  part = Slice(next, zeros, end, ones)"
    text = loop(
        inside + "  grown = SequenceInsert(held, part)",
        "s = ConcatFromSequence<axis = 1>(all)  y = Unsqueeze(s, ones)",
    )
    channels = find_channels(model(text))
    assert [g.size for g in channels.groups] == [WIDTH]


def test_a_list_that_is_returned_stays_as_it_is() -> None:
    text = loop(STACKED, "y = SequenceInsert(all, last)")
    channels = find_channels(model(text, y=LIST))
    assert [g.size for g in channels.groups] == [WIDTH]
    reasons = {b.reason for axis in channels.blocked if axis.tensor == "take" for b in axis.reasons}
    assert any(reason.startswith("the caller reads it") for reason in reasons)


def test_rows_taken_apart_are_read_one_by_one() -> None:
    """A loop over the rows of a sequence, as `for x in xs` is written."""
    text = loop(STACKED, BEHIND["stacked"][1]).replace(
        "xt = Gather<axis = 0>(steps, i)", "xt = SequenceAt(rows, i)"
    )
    channels = pruned(model("rows = SplitToSequence<axis = 0, keepdims = 0>(steps)" + text))
    assert reach_of(channels).params == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stacked", "the last one"])
def test_the_dense_model_is_written_with_its_lists(how: str) -> None:
    sparse = Prune(reduce_channels=0.4, round_to=1)(model(loop(*BEHIND[how]))).model
    made = Transform()(sparse)
    assert made.facts["verdict"] == "agree"
    assert made.facts["params"] < made.facts["params_before"]
    operators = [n.op_type for n in made.model.all_nodes]
    assert "SequenceInsert" in operators
    onnx.checker.check_model(made.model.proto)
