"""Certificates of networks with computed sizes, repeated heads and branches; and mutants of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from certified_networks import NETWORKS, half_of
from certify_mutants import Table, subjects

from onnxprune.certify import certify
from onnxprune.decisions.plan import PLAN_KEY
from onnxprune.passes import Transform


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_by_plan_from_the_original_on(name: str) -> None:
    pruned = half_of(name)
    assert pruned.dense.facts["params"] < 0.9 * pruned.dense.facts["params_before"]
    found = certify(
        pruned.sparse.model.proto, pruned.dense.model.proto, pruned.dense.kept, pruned.model.proto
    )
    assert found.explanation == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_by_evidence(name: str) -> None:
    sparse = half_of(name).sparse.model.copy()
    sparse.set_metadata(PLAN_KEY, None)
    dense = Transform()(sparse)
    assert certify(sparse.proto, dense.model.proto, dense.kept).explanation == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_mutant_is_certified_that_computes_something_else(name: str) -> None:
    table = Table()
    for subject in subjects(name):
        table.add(subject, each=1)
    assert not table.wrong
    assert table.refused.total() > 5


# --- sizes -------------------------------------------------------------------------------------------------


def positions(end: str, size: str) -> onnx.ModelProto:
    """A sum of ``x[s]`` and the first places of a table of eight, flattened to a given size."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[s] x) => (float[t] y) <float[8] table = {{0, 1, 2, 3, 4, 5, 6, 7}}, int64[1] zero = {{0}},
                                      int64[1] one = {{1}}, int64[1] minus = {{-1}}> {{
        n = Shape (x)
        more = Add (n, one)
        less = Sub (n, one)
        part = Slice (table, zero, {end})
        z = Add (x, part)
        y = Reshape (z, {size})
    }}"""
    return onnx.parser.parse_model(text)


def test_a_table_cut_to_the_length_of_a_text_has_that_length() -> None:
    assert certify(positions("n", "minus"), positions("n", "n")).certified


@pytest.mark.parametrize("end", ["more", "less"])
def test_a_table_cut_to_another_length_broadcasts(end: str) -> None:
    """With one element in the text, the table has two or none: the sum has no more the size of the text."""
    assert not certify(positions(end, "minus"), positions(end, "n")).certified


def grown_state(k: str) -> onnx.ModelProto:
    """A Loop whose first state grows; the second adds up a size."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[3] x, float[1] o) => (float[1] z) <int64 n = {{2}}, bool c = {{1}}> {{
        y, z = Loop (n, c, x, o) <body = turn (int64 i, bool d, float[S] s, float[1] a)
                                             => (bool e, float[T] t, float[1] u) {{
            e = Identity (d)
            t = Concat <axis = 0> (s, s)
            k = {k}
            f = Cast <to = 1> (k)
            u = Add (a, f)
        }}>
    }}"""
    return onnx.parser.parse_model(text)


def test_sizes_of_the_first_turn_hold_in_no_other() -> None:
    shape, number = grown_state("Shape (s)"), grown_state("Constant <value = int64[1] {3}> ()")
    assert certify(shape, shape).certified
    assert not certify(shape, number).certified


# --- branches ----------------------------------------------------------------------------------------------


def branch(then: str, behind: str, taken: bool = False, used: str = "z") -> onnx.ModelProto:
    """An If over the number of columns; both branches are of ten columns or one of them is not."""
    node = f"""If (c) <then_branch = one () => (float[N,T] p) {{ p = {then} }},
                       else_branch = more () => (float[N,S] q) {{ q = Identity (x) }}>"""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[n,10] x, bool c) => (float[N,M] y)
        <float[10] v = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}, int64[1] five = {{5}}, int64[1] zero = {{0}},
         int64[1] one = {{1}}> {{
        b = {"Identity (x)" if taken else node}
        z = {behind}
        y = Relu ({used})
    }}"""
    return onnx.parser.parse_model(text)


HALF = "Slice (x, zero, five, one)"
SAME = "Neg (x)"


def test_a_branch_behind_which_no_run_gets_on_is_not_taken() -> None:
    found = certify(branch(HALF, "Add (b, v)"), branch(HALF, "Add (b, v)", taken=True))
    assert found.certified
    assert "Add 'z'" in found.branches[0]


@pytest.mark.parametrize(
    ("then", "behind", "used"),
    [
        (SAME, "Add (b, v)", "z"),  # both branches are possible
        (HALF, "Add (b, b)", "z"),
        (HALF, "Add (b, v)", "b"),  # a runtime leaves out the node that fails
    ],
)
def test_a_branch_that_may_be_taken_stays(then: str, behind: str, used: str) -> None:
    sparse, dense = (branch(then, behind, taken, used) for taken in (False, True))
    assert not certify(sparse, dense).certified
    assert certify(sparse, sparse).certified


# --- repeated heads ----------------------------------------------------------------------------------------


def repeated(heads: int, repeats: int, queries: list[int]) -> onnx.ModelProto:
    """Queries times keys, of which each head is repeated: ``q[6] k[2] → y``; other queries are removed."""
    drawn = np.random.default_rng(0)
    wq, wk, wo = drawn.normal(size=(6, 4)), drawn.normal(size=(2, 4)), drawn.normal(size=(6, 3))
    alive = np.zeros((6, 1))
    alive[queries] = 1
    kept = slice(None) if repeats == 3 else queries
    count = heads * repeats
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[4,n] x) => (float[n,3] y)
        <int64[3] expand = {{{heads}, {repeats}, 1}}, int64[2] merge = {{{count}, -1}},
         int64[1] one = {{1}}> {{
        q = MatMul (wq, x)
        k = MatMul (wk, x)
        k3 = Unsqueeze (k, one)
        kk = Expand (k3, expand)
        k2 = Reshape (kk, merge)
        p = Mul (q, k2)
        t = Transpose <perm = [1, 0]> (p)
        y = MatMul (t, wo)
    }}"""
    model = onnx.parser.parse_model(text)
    values = {"wq": (wq * alive)[kept], "wk": wk, "wo": wo[kept]}
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    return model


def test_queries_of_a_group_may_be_any_of_it() -> None:
    sparse = repeated(2, 3, [1, 5])
    assert certify(sparse, repeated(2, 1, [1, 5])).explanation == ""


def test_queries_of_another_group_read_other_keys() -> None:
    sparse = repeated(2, 3, [1, 2])
    assert not certify(sparse, repeated(2, 1, [1, 2])).certified


def choice(before: str, then: str, other: str) -> onnx.ModelProto:
    """A product with one of two matrices, of which one does not fit."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 2] x, bool c) => (float[1, 2] y)
        <float[3, 2] wrong = {{1, 2, 3, 4, 5, 6}}, float[2, 2] right = {{1, 2, 3, 4}}> {{
        k = {before} (c)
        y = If (k) <then_branch = one () => (float[1, 2] a) {{ a = MatMul (x, {then}) }},
                    else_branch = two () => (float[1, 2] b) {{ b = MatMul (x, {other}) }}>
    }}"""
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("same", ["Identity wrong right", "Identity right wrong"])
@pytest.mark.parametrize("changed", ["Identity wrong right", "Identity right wrong", "Not wrong right"])
def test_the_only_branch_is_taken_under_the_same_condition(same: str, changed: str) -> None:
    """A model that fails for the inputs of the other one is not the same."""
    found = certify(choice(*same.split()), choice(*changed.split()))
    assert found.certified == (same == changed)


def test_the_only_branch_may_lie_in_another() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1, 2] x, bool c, bool d) => (float[1, 2] y)
        <float[3, 2] wrong = {1, 2, 3, 4, 5, 6}, float[2, 2] right = {1, 2, 3, 4}> {
        y = If (d) <then_branch = out () => (float[1, 2] e) {
                        k = Not (c)
                        e = If (k) <then_branch = one () => (float[1, 2] a) { a = MatMul (x, wrong) },
                                    else_branch = two () => (float[1, 2] b) { b = MatMul (x, right) }>
                    }, else_branch = same () => (float[1, 2] f) { f = Identity (x) }>
    }"""
    model = onnx.parser.parse_model(text)
    found = certify(model, model, original=model)
    assert found.certified
    assert len(found.branches) == 1


@pytest.mark.parametrize("width", [2, -1, "w"])
def test_a_size_of_minus_one_is_open(width: int | str) -> None:
    """Old files have it for axes of any size: a branch that reads such an axis may run."""
    model = choice("Identity", "wrong", "right")
    dim = model.graph.input[0].type.tensor_type.shape.dim[1]
    dim.CopyFrom(onnx.helper.make_tensor_type_proto(1, [width]).tensor_type.shape.dim[0])
    assert bool(certify(model, model).branches) == (width == 2)


# --- integers ----------------------------------------------------------------------------------------------


def integers(kept: list[int], bias: float, remaining: list[int]) -> onnx.ModelProto:
    """Six hidden channels, quantised in the run; those that are not kept are their bias alone."""
    drawn = np.random.default_rng(0)
    alive = np.isin(np.arange(6), kept)
    values = {
        "w": np.where(alive, drawn.normal(size=(4, 6)), 0).astype(np.float32)[:, remaining],
        "b": np.where(alive, drawn.normal(size=6), bias).astype(np.float32)[remaining],
        "v": drawn.integers(-9, 9, (6, 3)).astype(np.int8)[remaining],
    }
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    net (float[n,4] x) => (float[n,3] y) {
        p = MatMul (x, w)
        h = Add (p, b)
        q, scale, zero = DynamicQuantizeLinear (h)
        z = MatMulInteger (q, v, zero)
        f = Cast <to = 1> (z)
        y = Mul (f, scale)
    }""")
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


def test_channels_that_are_zero_do_not_change_the_scale() -> None:
    found = certify(integers([0, 2, 5], 0.0, list(range(6))), integers([0, 2, 5], 0.0, [0, 2, 5]))
    assert found.explanation == ""


def test_channels_that_are_constant_change_the_scale() -> None:
    found = certify(integers([0, 2, 5], 3.0, list(range(6))), integers([0, 2, 5], 3.0, [0, 2, 5]))
    assert found.operator == "DynamicQuantizeLinear"


def test_weights_that_are_the_zero_point_are_zero() -> None:
    original = integers(list(range(6)), 0.0, list(range(6)))
    sparse, other = (integers(list(range(6)), 0.0, list(range(6))) for _ in range(2))
    for model, number in ((sparse, 0), (other, 7)):
        weights = next(t for t in model.graph.initializer if t.name == "v")
        values = onnx.numpy_helper.to_array(weights).copy()
        values[3] = number
        weights.CopyFrom(onnx.numpy_helper.from_array(values, "v"))
    assert certify(sparse, sparse, original=original).certified
    assert certify(other, other, original=original).step == "sparse"
