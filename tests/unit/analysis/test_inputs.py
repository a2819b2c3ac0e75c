"""Inputs that a model can take: drawn from their uses in its graph."""

from __future__ import annotations

from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from exported_networks import EXPORTS
from onnx import numpy_helper, parser
from places import CASES

from onnxprune.analysis.inputs import feeds_that_run, input_values
from onnxprune.analysis.inputs.demand import ValueDemand
from onnxprune.analysis.inputs.input_demands import input_demands
from onnxprune.analysis.inputs.other_shapes import full_shapes, other_shapes
from onnxprune.analysis.shapes import fitting_shapes
from onnxprune.errors import ModelError
from onnxprune.ir import Model, check
from onnxprune.runtime import Session, TensorSpec, Values, sample_feeds
from onnxprune.runtime.size_names import computed, terms


def model_of(text: str, **weights: object) -> Model:
    """Return a graph that is given as text."""
    header = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
    proto = parser.parse_model(f"{header} g {text}")
    for name, values in weights.items():
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return check(Model(proto))


def values_of(model: Model, batch: int = 4, **shapes: tuple[int, ...]) -> dict[str, Values]:
    """Return the values read from a graph, without a run that could correct them."""
    specs = Session(model.proto, optimize=False).inputs
    return input_values(model, specs, full_shapes(specs, shapes, batch))


def rows(count: int) -> np.ndarray:
    return np.zeros((count, 4), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_pruned_with_no_option_but_the_budget(name: str, tmp_path: Path) -> None:
    given, sparse, dense = (tmp_path / f"{n}.onnx" for n in ("given", "sparse", "dense"))
    onnx.save(EXPORTS[name](), given)
    assert disk.run("inspect", given).code == 0
    pruned = disk.run("prune", given, "--reduce-channels", 0.5, "--round-to", 1, "-o", sparse)
    assert pruned.code == 0, pruned.err
    made = disk.run("transform", sparse, "-o", dense)
    assert made.code == 0, made.err


@pytest.mark.parametrize("name", EXPORTS)
def test_the_first_inputs_read_from_a_graph_run(name: str) -> None:
    """With a batch of 1, no other kind of input has to be tried, and no output is NaN."""
    model = check(Model(EXPORTS[name]()))
    session = Session(model.proto, optimize=False)
    shapes = next(other_shapes(session.inputs, full_shapes(session.inputs, fitting_shapes(model))))
    (feed,) = sample_feeds(session.inputs, shapes=shapes, values=input_values(model, session.inputs, shapes))
    for made in session.run(feed).values():
        assert np.isfinite(made).all()


CASE_NAMES = (
    "batch_fixed_by_state nan_mask_a past_sum statelstm strinput token_type two_inputs vitsin wave_conv"
)


@pytest.mark.parametrize("name", CASE_NAMES.split())
def test_files_that_failed_on_drawn_inputs(name: str, tmp_path: Path) -> None:
    sparse, dense = (tmp_path / f"{n}.onnx" for n in ("sparse", "dense"))
    amount = ("--reduce-channels", 0.5, "--criterion", "l2", "--round-to", 1)
    assert disk.run("prune", CASES / f"{name}.onnx", *amount, "-o", sparse).code == 0
    assert disk.run("transform", sparse, "-o", dense).code == 0


# --- rows that integers select


def test_indices_use_all_rows_of_a_table_and_no_more() -> None:
    model = model_of(
        """(int64[N,100] ids, int32[N,100] kinds) => (float[a,b,c] one, float[a,b,c] two) {
            flat = Reshape(ids, shape)  one = Gather(words, flat)
            wide = Cast<to=7>(kinds)  some = Slice(wide, from, to)  two = Gather(types, some) }""",
        words=rows(50), types=rows(2), shape=[1, -1], **{"from": [0, 10], "to": [9, 90]},
    )  # fmt: skip
    (feed,) = feeds_that_run(model, Session(model.proto), batch=10)
    assert (feed["ids"].min(), feed["ids"].max()) == (0, 49)
    assert set(feed["kinds"].ravel()) == {0, 1}


@pytest.mark.parametrize(
    ("nodes", "least", "most"),
    [
        ("y = Gather(t, i)", 0, 49),
        ("j = Add(i, three) y = Gather(t, j)", -3, 46),
        ("j = Sub(i, three) y = Gather(t, j)", 3, 52),
        ("j = Sub(three, i) y = Gather(t, j)", -46, 3),
        ("j = Mul(i, three) y = Gather(t, j)", 0, 49 / 3),
        ("j = Div(i, three) y = Gather(t, j)", 0, 147),
        ("j = Mod(i, three) y = Gather(t, j)", None, None),
        ("j = Clip(i, zero, three) y = Gather(t, j)", None, None),
        ("j = Min(i, three) y = Gather(t, j)", 0, None),
        ("k = Neg(i) j = Add(k, three) y = Gather(t, j)", -46, 3),
        ("j = Unsqueeze(i, axis) y = GatherND(t, j)", 0, 49),
        ("y = OneHot<axis=-1>(i, three, ends)", 0, 2),
        ("y = GatherElements(t, pair)  pair = Reshape(i, square)", 0, 49),
    ],
)
def test_bounds_follow_arithmetic(nodes: str, least: float | None, most: float | None) -> None:
    model = model_of(
        f"(int64[4] i) => (float y) {{ {nodes} }}",
        t=rows(50), three=np.asarray(3), zero=np.asarray(0), axis=[1], ends=[0.0, 1.0], square=[2, 2],
    )  # fmt: skip
    found = input_demands(model, {"i": (4,)})["i"]
    assert found.least == least
    assert found.most == (pytest.approx(most) if most is not None else None)


def test_ids_of_several_tables_are_below_the_smallest() -> None:
    model = model_of(
        """(int64[N,9] ids) => (float[a,b,c] y) {
            one = Gather(large, ids)  two = Gather(small, ids)  y = Add(one, two) }""",
        large=rows(50), small=rows(7),
    )  # fmt: skip
    assert values_of(model)["ids"].most == 6


def test_labels_are_classes() -> None:
    model = model_of(
        """(float[N,5] x, int64[N] labels) => (float y) {
            y = SoftmaxCrossEntropyLoss(x, labels) }""",
    )
    assert values_of(model)["labels"] == Values(least=0, most=4)


def test_indices_into_computed_tensors_follow_their_size() -> None:
    model = model_of(
        """(float[N,S,4] x, int64[N,1,4] last) => (float[a,b,c] y) {
            h = Relu(x)  y = GatherElements<axis=1>(h, last) }""",
    )
    assert values_of(model, x=(4, 9, 4))["last"].most == 8


def test_numbers_of_no_known_use_are_not_only_small() -> None:
    model = model_of(
        """(int64[N,200] a, uint8[N,200] b, int8[N,200] c) => (float[x,y] y) {
            p = Cast<to=1>(a)  q = Cast<to=1>(b)  r = Cast<to=1>(c)  s = Add(p, q)  y = Add(s, r) }""",
    )
    (feed,) = feeds_that_run(model, Session(model.proto), batch=10)
    assert feed["a"].max() > 200
    assert feed["b"].max() > 200
    assert feed["c"].min() < -100
    assert feed["c"].max() > 100


def test_a_divisor_is_not_zero() -> None:
    model = model_of("(int32[N] a, int32[N] b) => (int32[N] y) { y = Div(a, b) }")
    assert values_of(model)["b"].least == 1


# --- masks


MASKS = {
    "subtracted": ("w = Cast<to=1>(m) v = Sub(one, w) b = Mul(v, low) z = Add(s, b) y = Softmax(z)", 1),
    "filled where zero": ("v = Equal(m, zero) z = Where(v, low, s) y = Softmax(z)", 1),
    "filled where false": ("v = Cast<to=9>(m) z = Where(v, s, low) y = Softmax(z)", 1),
    "filled where not": ("w = Cast<to=9>(m) v = Not(w) z = Where(v, low, s) y = Softmax(z)", 1),
    "true hides": ("v = Cast<to=9>(m) z = Where(v, low, s) y = Softmax(z)", 0),
    "multiplied": ("w = Cast<to=1>(m) y = Mul(s, w)", 1),
    "compared": ("v = Greater(m, zero) w = Cast<to=1>(v) y = Mul(s, w)", 1),
    "joined with another": (
        "p = Cast<to=9>(m) q = Cast<to=9>(n) v = And(p, q) z = Where(v, s, low) y = Softmax(z)",
        1,
    ),
    "added to a causal one": (
        "c = Mul(causal, low) w = Cast<to=1>(m) u = Sub(one, w) b = Mul(u, low) z = Add(b, c)"
        " x2 = Add(s, z) y = Softmax(x2)",
        1,
    ),
    "two ways": (
        "w = Cast<to=1>(m) v = Sub(one, w) b = Mul(v, low) z = Add(s, b) t = Softmax(z) y = Mul(t, w)",
        1,
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_known_by_their_use(kind: str) -> None:
    nodes, value = MASKS[kind]
    model = model_of(
        f"(float[N,6] x, int64[N,6] m, int64[N,6] n) => (float[N,6] y) {{ s = MatMul(x, square) {nodes} }}",
        square=np.eye(6), one=np.asarray(1.0), zero=np.asarray(0), low=np.asarray(-1e9), causal=np.eye(6),
    )  # fmt: skip
    assert values_of(model)["m"].constant == value


@pytest.mark.parametrize("type_", ["bool", "int64", "float"])
def test_masks_without_a_telling_use_are_recognised_by_name(type_: str) -> None:
    model = model_of(f"({type_}[N,6] attention_mask) => (int64[k,l] y) {{ y = NonZero(attention_mask) }}")
    assert values_of(model)["attention_mask"].constant == 1


def test_a_float_mask_that_is_added_is_zero_and_the_network_varies() -> None:
    model = model_of(
        "(float[N,6] x, float[N,6] bias) => (float[N,6] y)"
        " { s = MatMul(x, square) z = Add(s, bias) y = Softmax(z) }",
        square=np.eye(6),
    )
    values = values_of(model)
    assert values["bias"].constant == 0
    assert values["x"] == Values(unbounded=True)


def test_an_input_that_goes_into_a_softmax_by_itself_varies() -> None:
    model = model_of("(float[N,6] x, float[N,6] z) => (float[N,6] y) { s = Add(x, z) y = Softmax(s) }")
    assert values_of(model) == {"x": Values(unbounded=True), "z": Values(unbounded=True)}


def test_a_threshold_on_an_input_is_no_mask() -> None:
    model = model_of(
        "(float[N,6] x) => (float[N,6] y) { p = Greater(x, zero) y = Where(p, x, zero) }",
        zero=np.asarray(0.0),
    )
    assert values_of(model)["x"] == Values(unbounded=True)


def test_masks_that_make_outputs_nan_are_replaced() -> None:
    """A custom way to mask that no rule knows: where no element is left, the mean is NaN."""
    model = model_of(
        """(float[N,6] x, int64[N,6] m) => (float[N,1] y) {
            b = BitwiseAnd(m, one) w = Cast<to=1>(b) k = Mul(x, w) s = ReduceSum(k, axis)
            c = ReduceSum(w, axis) y = Div(s, c) }""".replace("BitwiseAnd(m, one)", "Sub(m, m)"),
        one=np.asarray(1), axis=[1],
    )  # fmt: skip
    feeds = feeds_that_run(model, Session(model.proto))
    assert feeds  # no input is any better: inputs that run are returned all the same


# --- lengths and positions


def test_lengths_are_those_of_the_sequences() -> None:
    model = model_of(
        """(float[N,T,4] x, int32[N] x_len) => (float[T,D,N,H] y) {
            t = Transpose<perm=[1,0,2]>(x)  y = GRU<hidden_size=3>(t, w, r, , x_len) }""",
        w=np.zeros((1, 9, 4)), r=np.zeros((1, 9, 3)),
    )  # fmt: skip
    assert values_of(model, x=(4, 13, 4))["x_len"].constant == 13


def test_unbounded_lengths_are_recognised_by_name() -> None:
    model = model_of(
        """(float[N,80,T] audio, int64[N] audio_lengths) => (float[N] y) {
            f = Cast<to=1>(audio_lengths) m = ReduceMean<axes=[1,2], keepdims=0>(audio) y = Add(f, m) }""",
    )
    assert values_of(model, audio=(4, 80, 50))["audio_lengths"].constant == 50


def test_positions_count_and_stay_below_the_rows() -> None:
    model = model_of(
        "(int64[N,S] position_ids) => (float[a,b,c] y) { y = Gather(places, position_ids) }", places=rows(6)
    )
    (feed,) = feeds_that_run(model, Session(model.proto), {"position_ids": (2, 9)})
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 5, 5, 5]] * 2


def test_lengths_of_a_cache_are_past_and_present() -> None:
    model = check(Model(EXPORTS["grouped_query_attention_with_lengths"]()))
    values = values_of(model, input_ids=(3, 5), past_key=(3, 2, 7, 16))
    assert values["total_sequence_length"].constant == 12
    assert values["seqlens_k"].constant == 11


# --- numbers that choose


def test_a_flag_takes_both_branches() -> None:
    model = check(Model(EXPORTS["merged_decoder"]()))
    feeds = feeds_that_run(model, Session(model.proto), fitting_shapes(model), samples=2)
    assert [bool(f["use_cache_branch"].all()) for f in feeds] == [True, False]


def test_end_tokens_lie_once_in_each_row() -> None:
    model = check(Model(EXPORTS["bart_classifier"]()))
    (feed,) = feeds_that_run(model, Session(model.proto), {"input_ids": (5, 30)})
    assert (feed["input_ids"] == 2).sum(1).tolist() == [1] * 5
    assert len(np.unique(feed["input_ids"])) > 30


def test_single_numbers_that_are_compared_are_drawn_in_turn() -> None:
    model = model_of(
        """(float[N,4] x, int64[1] rate) => (float[N,4] y) {
            p = Equal(rate, a)  q = Equal(rate, b)  u = Neg(x)  v = Where(p, x, u)  y = Where(q, v, u) }""",
        a=np.asarray(8000), b=np.asarray(16000),
    )  # fmt: skip
    assert sorted(values_of(model)["rate"].turns) == [8000, 16000]


# --- sizes


def test_names_that_are_sums() -> None:
    known = {"past": 3, "seq": 4}
    assert terms("past + seq", known) == ("past", "seq")
    assert computed("past + seq", known) == 7
    assert computed("(past + 1) * 2", known) == 8
    assert computed("seq / 2", known) == 2
    assert terms("past-seq + other", known) == ()
    assert terms("num-channels", {"num-channels"}) == ()
    assert terms("a(b)", {"a", "b"}) == ()
    assert computed("past / 0", known) is None


def test_feeds_of_specs_alone_follow_sums_too() -> None:
    specs = [
        TensorSpec("ids", np.dtype(np.int64), ("b", "seq")),
        TensorSpec("cache", np.dtype(np.float32), ("b", "past", 4)),
        TensorSpec("mask", np.dtype(np.int64), ("b", "past + seq")),
    ]
    (feed,) = sample_feeds(specs, shapes={"ids": (2, 5)}, batch=2)
    assert feed["mask"].shape == (2, feed["cache"].shape[1] + 5)


def test_other_shapes_keep_given_sizes_and_sums() -> None:
    specs = [
        TensorSpec("ids", np.dtype(np.int64), ("b", "seq")),
        TensorSpec("cache", np.dtype(np.float32), ("b", "past", 4)),
        TensorSpec("mask", np.dtype(np.int64), ("b", "past + seq")),
    ]
    first = {"ids": (3, 11), "cache": (3, 7, 4), "mask": (3, 18)}
    tried = list(other_shapes(specs, first, {"cache": (-1, 7, -1)}))
    assert tried[0] == {"ids": (1, 11), "cache": (1, 7, 4), "mask": (1, 18)}
    assert len(tried) > 3
    for shapes in tried:
        assert shapes["cache"] == (1, 7, 4)
        assert shapes["mask"] == (1, 7 + shapes["ids"][1])


# --- models that do not run


def test_the_error_names_input_node_and_options(tmp_path: Path) -> None:
    """A matrix product of two inputs whose sizes have nothing in common fails at all sizes that are tried."""
    model = model_of(
        """(int64[n,3] sizes, float[n,3] x) => (float[a,b] y) {
            s = Gather<axis=1>(sizes, two)  m = Mul(s, s)  k = Squeeze(m)
            q = Equal(m, m)  l = Not(q)  y = Reshape(x, seven) }""",
        two=[2], seven=[7, -1, 5],
    )  # fmt: skip
    with pytest.raises(ModelError) as caught:
        feeds_that_run(model, Session(model.proto, optimize=False))
    assert "Reshape" in caught.value.message
    assert "--data" in caught.value.hint
    assert "--dim n=8" in caught.value.hint


def test_demands_meet_at_the_narrower_bounds() -> None:
    one, other = ValueDemand(least=0, most=9, index=True), ValueDemand(least=-4, most=5, wish=1)
    met = one.meet(other)
    assert (met.least, met.most, met.index, met.wish) == (0, 5, True, 1)
    assert other.meet(one) == met


@pytest.mark.parametrize("named", ["attention_mask", "seen"])
def test_a_mask_that_is_multiplied_by_its_own_sums_is_ones(named: str) -> None:
    """Numbers of positions, counted from the mask: a mask of twos would count beyond the table."""
    model = model_of(
        f"""(int64[N,S] {named}) => (float[a,b,c] y) {{
            sums = CumSum({named}, one)  numbered = Mul(sums, {named})  ahead = Add(numbered, one)
            y = Gather(places, ahead) }}""",
        one=np.asarray(1), places=rows(12),
    )  # fmt: skip
    (feed,) = feeds_that_run(model, Session(model.proto), {named: (2, 9)})
    assert (feed[named] == 1).all()


def test_a_product_of_two_inputs_still_selects_rows() -> None:
    model = model_of(
        """(int64[N] a, int64[N] b) => (float[n,c] y) { p = Mul(a, b)  y = Gather(places, p) }""",
        places=rows(12),
    )
    assert all(v.constant is None for v in values_of(model).values())
