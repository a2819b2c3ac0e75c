"""The analysis of sizes: names, numbers given for them, derived facts, and contradictions."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from places import CASES

from onnxprune.algebra.sizes.algebra import evaluate
from onnxprune.analysis.shapes import infer
from onnxprune.analysis.sizes import SizeAnalysis, infer_sizes
from onnxprune.errors import ModelError, UsageError
from onnxprune.ir import Model, check

REAL, INT = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[Any]]],
    constants: dict[str, Any] | None = None,
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    tensors = [
        numpy_helper.from_array(np.asarray(v, np.float32 if np.asarray(v).dtype.kind == "f" else np.int64), n)
        for n, v in (constants or {}).items()
    ]
    given = [helper.make_tensor_value_info(n, k, s) for n, k, s in inputs]
    outputs = [onnx.ValueInfoProto(name=nodes[-1].output[0])]
    graph = helper.make_graph(list(nodes), "g", given, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def texts(analysis: SizeAnalysis, name: str) -> list[str]:
    return [str(size) for size in analysis.shapes[name]]


# --- inputs ------------------------------------------------------------------------------------------------


def test_axes_of_one_name_are_one_symbol_and_sums_are_sums() -> None:
    inputs = [
        ("ids", INT, ["batch", "seq"]),
        ("mask", INT, ["batch", "past_seq + seq"]),
        ("past_key", REAL, ["batch", 4, "past_seq", 8]),
    ]
    proto = model([node("Cast", ["mask"], ["y"], to=REAL)], inputs)
    found = infer_sizes(proto)
    assert set(found.symbols) == {"batch", "seq", "past_seq"}
    assert found.symbols["past_seq"].lower == 0
    assert found.symbols["batch"].places == (("ids", 0), ("mask", 0), ("past_key", 0))
    assert evaluate(found.shapes["y"][1], {"past_seq": 3, "seq": 4}) == 7
    assert any("caches may be empty: past_seq" in said for said in found.assumptions)


@pytest.mark.parametrize("name", ["", "?", "??"])
def test_axes_without_a_name_are_named_after_the_input(name: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])], [("x", REAL, [name, 3]), ("z", REAL, [name])])
    assert texts(infer_sizes(proto), "y") == ["x.0", "3"]


def test_sizes_below_one_are_open() -> None:
    proto = model([node("Relu", ["x"], ["y"])], [("x", REAL, ["n", 3])])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert texts(infer_sizes(proto), "y") == ["x.0", "3"]


@pytest.mark.parametrize("name", ["batch-size", "h/4", "a b", "1x"])
def test_a_name_that_only_looks_like_an_expression_is_a_name(name: str) -> None:
    found = infer_sizes(model([node("Relu", ["x"], ["y"])], [("x", REAL, [name, 3])]))
    assert list(found.symbols) == [name]


def test_a_quotient_of_known_names_is_one() -> None:
    inputs = [("x", REAL, ["h"]), ("z", REAL, ["h//4"]), ("q", REAL, ["h/2"])]
    found = infer_sizes(model([node("Relu", ["z"], ["y"])], inputs))
    assert list(found.symbols) == ["h"]
    assert texts(found, "y") == ["h//4"]


def test_numbers_bind_symbols_and_shapes_bind_those_of_other_inputs() -> None:
    proto = model([node("Add", ["x", "z"], ["y"])], [("x", REAL, ["n", "t"]), ("z", REAL, ["n", "t"])])
    assert texts(infer_sizes(proto, bound={"t": 7}), "y") == ["n", "7"]
    found = infer_sizes(proto, shapes={"x": (2, 5)})
    assert (found.shapes["z"], found.bound, found.symbols) == ((2, 5), {"n": 2, "t": 5}, {})


def test_a_shape_solves_a_sum() -> None:
    inputs = [("mask", INT, ["past + seq"]), ("ids", INT, ["seq"])]
    proto = model([node("Cast", ["mask"], ["y"], to=REAL)], inputs)
    found = infer_sizes(proto, shapes={"mask": (9,), "ids": (4,)})
    assert found.shapes["y"] == (9,)
    assert found.bound == {"seq": 4, "past": 5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bound": {"m": 3}}, "no open axis is named 'm'"),
        ({"bound": {"n": -3}}, "cannot have the size -3"),
        ({"shapes": {"w": (3, 3)}}, "not an input"),
        ({"shapes": {"x": (3, 3)}}, "does not fit the input 'x'"),
        ({"shapes": {"x": (3, 4), "z": (5,)}}, "shape given for 'z' has 5"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(given: dict[str, Any], said: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])], [("x", REAL, ["n", 4]), ("z", REAL, ["n"])])
    with pytest.raises(UsageError, match=said):
        infer_sizes(proto, **given)


# --- learnt sizes, and misfits ------------------------------------------------------------------------------


def test_an_equation_is_learnt_and_applied_to_earlier_tensors() -> None:
    nodes = [
        node("Relu", ["x"], ["a"], name="first"),
        node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", "c"])], {"w": np.zeros((6, 2), np.float32)}))
    assert texts(found, "a") == ["n", "6"]
    assert found.equations == ["c = 6 (node 'product': inner axes)"]
    assert list(found.symbols) == ["n"]


def test_sizes_that_do_not_fit_name_node_axis_and_both() -> None:
    nodes = [node("Concat", ["x", "z"], ["y"], axis=0, name="join")]
    proto = model(nodes, [("x", REAL, ["n", 5]), ("z", REAL, ["m", 6])])
    with pytest.raises(
        ModelError, match=r"file: .* node 'join' \(Concat\): axis 1 of the joined inputs: 5 is not 6"
    ):
        infer_sizes(proto, where="file")


def test_a_bound_symbol_is_named_as_the_cause() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    proto = model(nodes, [("x", REAL, ["n", "c"])], {"w": np.zeros((6, 2), np.float32)})
    with pytest.raises(ModelError) as caught:
        infer_sizes(proto, bound={"c": 5})
    assert "--dim" in caught.value.hint


def test_an_odd_expression_is_never_even() -> None:
    nodes = [
        node("Concat", ["x", "x", "one"], ["a"], axis=0),
        node("Concat", ["z", "z"], ["b"], axis=0),
        node("Concat", ["a", "b"], ["y"], axis=1, name="both"),
    ]
    proto = model(
        nodes, [("x", REAL, ["n", 5]), ("z", REAL, ["m", 5])], {"one": np.zeros((1, 5), np.float32)}
    )
    with pytest.raises(ModelError, match=r"'both'.*is never|'both'.*is not"):
        infer_sizes(proto)


def test_a_split_batch_is_a_multiple() -> None:
    found = infer_sizes(onnx.load(CASES / "tsm.onnx"))
    assert any("N is a multiple of 8" in str(c) for c in found.conditions)
    assert texts(found, "v")[:2] == ["N/8", "8"]
    assert texts(found, "b_")[0] == "N"


def test_windows_are_demanded() -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["y"], name="c")],
        [("x", REAL, ["n", 1, "t"])],
        {"w": np.zeros((1, 1, 5), np.float32)},
    )
    found = infer_sizes(proto)
    (condition,) = found.conditions
    assert str(condition) == "t - 5 >= 0 (node 'c': one window along axis 2)"
    assert condition.holds({"t": 5})
    assert not condition.holds({"t": 4})


def counted_windows(conv: Sequence[onnx.NodeProto], count_first: bool) -> SizeAnalysis:
    """Two strided windows, and a list of sizes with their number by division towards zero."""
    count = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "two"], ["t"]),
        node("Sub", ["t", "five"], ["room"]),
        node("Div", ["room", "three"], ["steps"]),
        node("Add", ["steps", "one"], ["count"]),
        node("Concat", ["zero", "four", "minus", "count"], ["sizes"], axis=0),
    ]
    nodes = [*count, *conv] if count_first else [*conv, *count]
    constants = {"w": np.zeros((8, 1, 5), np.float32), "zero": [0], "one": [1], "two": [2], "three": [3]}
    constants |= {"four": [4], "five": [5], "minus": [-1], "wide": [1, 8, 1]}
    nodes = [*nodes, node("Reshape", ["z", "sizes"], ["y"])]
    return infer_sizes(model(nodes, [("x", REAL, ["n", 1, "t"])], constants))


@pytest.mark.parametrize("count_first", [True, False])
def test_a_count_of_windows_is_a_division_downwards_where_one_window_is_demanded(count_first: bool) -> None:
    found = counted_windows([node("Conv", ["x", "w"], ["z"], strides=[3])], count_first)
    assert found.shapes["y"][1:3] == (4, 2)
    assert found.shapes["y"][3] == found.shapes["z"][2]
    for length in (5, 6, 7, 8, 20):
        assert evaluate(found.shapes["y"][3], {"t": length}) == (length - 5) // 3 + 1


def test_a_division_towards_zero_stays_one_where_nothing_is_demanded() -> None:
    found = counted_windows([node("Expand", ["x", "wide"], ["z"])], count_first=False)
    size = found.values["count"].ravel()[0]
    assert evaluate(size, {"t": 3}) == 1
    assert evaluate(size, {"t": 1}) == 0


# --- operators in each version ------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, 24))
def test_flattening_by_shape_is_followed_at_each_opset(opset: int) -> None:
    unsqueeze = (
        node("Unsqueeze", ["g"], ["u"], axes=[0]) if opset < 13 else node("Unsqueeze", ["g", "zero"], ["u"])
    )
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["g"], axis=0),
        unsqueeze,
        node("Concat", ["u", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    proto = model(nodes, [("x", REAL, ["n", 3, 4, 4])], {"zero": [0], "first": 0, "rest": [-1]}, opset)
    found = infer_sizes(proto)
    assert texts(found, "y") == ["n", "48"]
    assert [str(v) for v in found.values["t"]] == ["n", "-1"]
    assert {"s", "g", "u", "t"} <= found.derived
    assert "rest" not in found.derived


def test_equal_parts_are_those_of_the_version() -> None:
    inputs = [("x", REAL, [7])]
    newer = model([node("Split", ["x"], ["a", "b"], num_outputs=2)], inputs, opset=18)
    found = infer_sizes(newer)
    assert (found.shapes["a"], found.shapes["b"]) == ((4,), (3,))
    with pytest.raises(ModelError, match="2 equal parts"):
        infer_sizes(model([node("Split", ["x"], ["a", "b"])], inputs, opset=13))


@pytest.mark.parametrize("opset", [7, 9, 10, 13, 19])
def test_pictures_are_enlarged_at_each_opset(opset: int) -> None:
    factors = np.array([1, 1, 2, 1.5], np.float32)
    if opset == 7:
        made, constants = node("Upsample", ["x"], ["y"], scales=list(map(float, factors))), {}
    else:
        operands = ["x", "f"] if opset < 11 else ["x", "", "f"]
        made, constants = node("Upsample" if opset == 9 else "Resize", operands, ["y"]), {"f": factors}
    found = infer_sizes(model([made], [("x", REAL, ["n", 3, "h", "w"])], constants, opset))
    assert texts(found, "y") == ["n", "3", "2*h", "w + w//2"]


# --- bodies -------------------------------------------------------------------------------------------------


def branch(name: str, made: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([made], name, [], [onnx.ValueInfoProto(name=made.output[0])])


def test_a_branch_that_sizes_decide_is_a_choice_of_sizes() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Less", ["s", "four"], ["c"]),
        node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("t", node("Concat", ["x", "x"], ["a"], axis=0)),
            else_branch=branch("e", node("Relu", ["x"], ["b"])),
        ),
    ]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 3])], {"four": [4]}))
    assert [evaluate(found.shapes["y"][0], {"n": n}) for n in (1, 3, 4, 9)] == [2, 6, 4, 9]
    assert found.branches == {}


def test_a_decided_branch_is_taken_alone() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Equal", ["s", "s"], ["c"]),
        node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("t", node("Relu", ["x"], ["a"])),
            else_branch=branch("e", node("Flatten", ["x"], ["b"], axis=0)),
        ),
    ]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 3, 2])]))
    assert found.branches == {"y": True}
    assert texts(found, "y") == ["n", "3", "2"]


def test_a_branch_of_another_rank_leaves_the_rank_open_with_a_reason() -> None:
    nodes = [
        node("Cast", ["flag"], ["c"], to=TensorProto.BOOL),
        node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("t", node("Relu", ["x"], ["a"])),
            else_branch=branch("e", node("Flatten", ["x"], ["b"], axis=0)),
        ),
    ]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 3, 2]), ("flag", INT, [])]))
    assert "y" not in found.shapes
    assert "branch" in found.unknown["y"]


def test_a_branch_that_no_later_node_accepts_is_never_taken() -> None:
    nodes = [
        node("Shape", ["x"], ["s"], start=2, end=3),
        node("Equal", ["s", "one"], ["c"]),
        node(
            "If",
            ["c"],
            ["a"],
            name="squeeze",
            then_branch=branch("t", node("Squeeze", ["x", "two"], ["b"])),
            else_branch=branch("e", node("Identity", ["x"], ["d"])),
        ),
        node("Gemm", ["a", "w"], ["y"]),
    ]
    constants = {"one": [1], "two": [2], "w": np.zeros((4, 3), np.float32)}
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 4, "t"])], constants))
    assert texts(found, "y") == ["n", "3"]
    assert found.branches == {"a": True}
    assert found.equations == ["t = 1 (node 'squeeze': the other branch fits nothing behind it)"]


def test_no_fact_of_a_branch_holds_for_the_whole() -> None:
    nodes = [
        node("Cast", ["flag"], ["c"], to=TensorProto.BOOL),
        node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("t", node("MatMul", ["x", "w"], ["a"])),
            else_branch=branch("e", node("Relu", ["x"], ["b"])),
        ),
    ]
    inputs = [("x", REAL, ["n", "k"]), ("flag", INT, [])]
    found = infer_sizes(model(nodes, inputs, {"w": np.zeros((4, 4), np.float32)}))
    assert found.equations == []
    assert found.shapes["y"][0] == found.shapes["x"][0]


def test_a_loop_of_open_length_stacks_the_results_of_its_turns() -> None:
    body = helper.make_graph(
        [node("Relu", ["s_in"], ["s_out"]), node("Identity", ["c_in"], ["c_out"])],
        "body",
        [
            helper.make_tensor_value_info("turn", INT, []),
            helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s_in", REAL, None),
        ],
        [onnx.ValueInfoProto(name=n) for n in ("c_out", "s_out", "s_out")],
    )
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["turns"]),
        node("Loop", ["turns", "", "x"], ["last", "all"], body=body),
    ]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 5])], {"first": 0}))
    assert (texts(found, "last"), texts(found, "all")) == (["n", "5"], ["n", "n", "5"])


def test_sequences_of_known_length_hand_out_their_elements() -> None:
    nodes = [
        node("SplitToSequence", ["x", "parts"], ["s"], axis=1),
        node("SequenceAt", ["s", "one"], ["y"]),
        node("ConcatFromSequence", ["s"], ["z"], axis=1),
    ]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 6])], {"parts": [2, 4], "one": 1}))
    assert (texts(found, "y"), texts(found, "z")) == (["n", "4"], ["n", "6"])
    assert found.kinds == {"s": "sequence"}


def test_a_range_of_whole_floats_is_counted() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["n"]),
        node("Cast", ["n"], ["f"], to=REAL),
        node("Range", ["zero", "f", "one"], ["y"]),
    ]
    constants = {"first": 0, "zero": np.float32(0), "one": np.float32(1)}
    assert texts(infer_sizes(model(nodes, [("x", REAL, ["n", 5])], constants)), "y") == ["n"]


# --- unknown sizes ------------------------------------------------------------------------------------------


def test_sizes_that_depend_on_data_leave_the_other_axes_known() -> None:
    nodes = [node("Compress", ["x", "c"], ["a"], axis=0), node("Concat", ["a", "a"], ["y"], axis=0)]
    inputs = [("x", REAL, ["n", 4]), ("c", TensorProto.BOOL, ["n"])]
    found = infer_sizes(model(nodes, inputs))
    assert texts(found, "y") == ["2*a.0", "4"]


def test_an_unknown_operator_has_a_reason() -> None:
    nodes = [node("Strange", ["x"], ["y"], domain="elsewhere"), node("Relu", ["y"], ["z"])]
    found = infer_sizes(model(nodes, [("x", REAL, ["n", 4])], domains=["elsewhere"]))
    assert "z" not in found.shapes
    assert "Strange" in found.unknown["y"]


def test_constants_of_the_file_are_known_and_weights_are_not_read() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [("x", REAL, ["n", 80])], {"w": np.zeros((80, 80), np.float32)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")  # reading it would fail
    found = infer_sizes(proto)
    assert texts(found, "y") == ["n", "80"]
    assert "w" not in found.values


@pytest.mark.slow
def test_a_deep_network_needs_no_deep_stack() -> None:
    nodes = []
    for k in range(1000):
        before, after = ("x" if k == 0 else f"t{k - 1}"), f"t{k}"
        nodes += [
            node("Shape", [before], [f"s{k}"], start=1, end=2),
            node("Div", [f"s{k}", "two"], [f"h{k}"]),
            node("Max", [f"h{k}", "two"], [f"m{k}"]),
            node("Slice", [before, "zero", f"m{k}", "one"], [after]),
        ]
    proto = model(nodes, [("x", REAL, ["n", "t"])], {"two": [2], "zero": [0], "one": [1]})
    found = infer_sizes(proto)
    assert found.shapes["t999"][0] == found.shapes["x"][0]


def test_results_can_be_pickled() -> None:
    found = infer_sizes(check(Model(onnx.load(CASES / "unetpad2d.onnx"))).proto)
    again = pickle.loads(pickle.dumps(found))
    assert {n: list(map(str, s)) for n, s in again.shapes.items()} == {
        n: list(map(str, s)) for n, s in found.shapes.items()
    }


def test_integers_beyond_their_type_are_not_taken_for_exact() -> None:
    """Runtimes wrap them around: 200 + 127 is 71 in 8 bits."""
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n] x) => (float[m] y) <uint8[1] a = {200}, uint8[1] b = {127}> {
            sum = Add(a, b)  wide = Cast<to = 7>(sum)  y = ConstantOfShape(wide) }""")
    sizes = infer_sizes(proto)
    assert sizes.shapes["y"][0] != 327
    assert infer(Model(proto)).numbers("y") != (327,)


def test_a_size_behind_an_identity_is_that_size() -> None:
    nodes = [
        node("Shape", ["x"], ["size"]),
        node("Identity", ["size"], ["same"]),
        node("Reshape", ["z", "same"], ["y"]),
    ]
    proto = model(nodes, [("x", REAL, ["n", 4]), ("z", REAL, ["m"])])
    assert texts(infer_sizes(proto), "y") == ["n", "4"]
