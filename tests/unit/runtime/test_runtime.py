from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from onnxprune import runtime
from onnxprune.errors import DataError, LimitError, ModelError, UsageError
from onnxprune.runtime import Session, TensorSpec, WeightSession, compare, measure_latency, sample_feeds
from onnxprune.runtime import session as sessions
from onnxprune.runtime.agreement import difference
from onnxprune.runtime.static_quantisation import quantised

HEADER = '<ir_version: 8, opset_import: ["" : 17]> '

LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
linear (float[N,3] x) => (float[N,2] y)
<float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {10, 20}> { [fc] y = Gemm(x, w, b) }
"""

CONVNET = """
<ir_version: {ir}, opset_import: ["" : 17]>
convnet (float[N,3,12,12] x{listed}) => (float[N,8,1,1] y) {{
  [conv1] c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
  [bn1] n1 = BatchNormalization(c1, s1, b1, m1, v1)
  [relu1] r1 = Relu(n1)
  [conv2] c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
  [pool] y = GlobalAveragePool(c2)
}}
"""


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def convnet(width: int = 64, seed: int = 0, ir: int = 8, listed: str = "") -> onnx.ModelProto:
    """Two convolutions; with the usual width their weights are large enough to travel beside the message."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((width, 3, 3, 3)),
        "s1": rng.uniform(0.5, 2, width),
        "b1": rng.standard_normal(width),
        "m1": rng.standard_normal(width),
        "v1": rng.uniform(0.5, 2, width),
        "w2": rng.standard_normal((8, width, 3, 3)),
        "big": rng.standard_normal((64, 1024)),
    }
    proto = model(CONVNET.format(ir=ir, listed=listed))
    proto.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()
    )
    return proto


def array(proto: onnx.ModelProto, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name)).copy()


def with_array(proto: onnx.ModelProto, name: str, values: np.ndarray[Any, Any]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    next(t for t in changed.graph.initializer if t.name == name).CopyFrom(
        numpy_helper.from_array(values, name)
    )
    return changed


def image(seed: int = 0, batch: int = 2) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {"x": np.random.default_rng(seed).standard_normal((batch, 3, 12, 12)).astype(np.float32)}


class TestSession:
    def test_runs_and_describes_itself(self) -> None:
        session = Session(model(LINEAR))
        assert session.inputs == (TensorSpec("x", np.dtype(np.float32), ("N", 3)),)
        assert session.outputs == (TensorSpec("y", np.dtype(np.float32), ("N", 2)),)
        assert str(session.inputs[0]) == "x float32[N, 3]"
        result = session.run({"x": np.eye(3, dtype=np.float32)})
        np.testing.assert_array_equal(result["y"], [[11, 22], [13, 24], [15, 26]])

    def test_returns_only_the_outputs_asked_for(self) -> None:
        proto = model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] a, float[2] b)'
            " { a = Neg(x) b = Abs(a) }"
        )
        assert list(Session(proto).run({"x": np.float32([1, 2])}, ["b"])) == ["b"]

    def test_large_weights_are_handed_over_beside_the_message(self) -> None:
        weight = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
        proto = model(
            '<ir_version: 8, opset_import: ["" : 17]>'
            " g (float[N,256] x) => (float[N,128] y) { y = MatMul(x, w) }"
        )
        proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        small, weights = runtime.slim.slim_copy(proto)
        assert list(weights) == ["w"]
        assert small.ByteSize() < 1000
        x = np.random.default_rng(1).standard_normal((3, 256)).astype(np.float32)
        np.testing.assert_allclose(Session(proto).run({"x": x})["y"], x @ weight, rtol=1e-4, atol=1e-4)

    def test_the_model_is_not_changed(self) -> None:
        proto = convnet(ir=3)
        before = proto.SerializeToString(deterministic=True)
        Session(proto)
        WeightSession(proto, ["w1"])
        assert proto.SerializeToString(deterministic=True) == before

    def test_a_large_constant_node_is_handed_over_too(self) -> None:
        weight = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
        node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight))
        proto = model(
            '<ir_version: 3, opset_import: ["" : 8]>'
            " g (float[2,256] x) => (float[2,128] y) { y = MatMul(x, w) }"
        )
        proto.graph.node.insert(0, node)
        y = Session(proto, optimize=False).run({"x": np.eye(2, 256, dtype=np.float32)})["y"]
        np.testing.assert_array_equal(y, weight[:2])

    def test_large_weights_that_only_a_branch_reads_and_unread_ones(self) -> None:
        proto = model(
            HEADER + "g (float[1,256] x, bool c) => (float[1,128] y) { y = If (c) <"
            "then_branch = a () => (float[1,128] t) { t = MatMul(x, w) },"
            "else_branch = b () => (float[1,128] e) { n = Neg(x) e = MatMul(n, w) }> }"
        )
        weight = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
        proto.graph.initializer.extend(numpy_helper.from_array(weight, n) for n in ("w", "unread"))
        y = Session(proto).run({"x": np.eye(1, 256, dtype=np.float32), "c": np.array(False)})["y"]
        np.testing.assert_array_equal(y, -weight[:1])

    @pytest.mark.parametrize(("shape", "batch"), [("4,3", 4), ("N,3", None), ("", None)])
    def test_fixed_batch(self, shape: str, batch: int | None) -> None:
        text = f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Neg(x) }}"
        assert Session(model(HEADER + text)).fixed_batch == batch

    @pytest.mark.parametrize(
        ("feeds", "words"),
        [
            ({}, "missing"),
            ({"x": np.zeros((1, 5), np.float32)}, "Expected: 3"),
            ({"x": np.zeros((1, 3), np.float64)}, "tensor(double)"),
        ],
    )
    def test_feeds_that_do_not_fit(self, feeds: dict[str, np.ndarray[Any, Any]], words: str) -> None:
        with pytest.raises(ModelError, match="onnxruntime cannot run model 'linear'") as caught:
            Session(model(LINEAR)).run(feeds)
        assert words in caught.value.message

    def test_a_node_that_fails_is_named(self) -> None:
        proto = model(LINEAR.replace("float[N,3] x", "float[N,K] x"))
        with pytest.raises(ModelError, match=r"at node 'fc' \(Gemm\)"):
            Session(proto).run({"x": np.zeros((1, 5), np.float32)})

    def test_the_hint_for_a_run_that_fails_states_the_sizes(self) -> None:
        proto = model(LINEAR.replace("float[N,3] x", "float[N,K] x"))
        with pytest.raises(ModelError) as caught:
            Session(proto).run({"x": np.zeros((1, 5), np.float32)})
        assert "other sizes than x 1×5?" in caught.value.hint

    def test_the_hint_for_a_type_without_kernels_names_it(self) -> None:
        text = "g (double[1,1,4,4] x, double[1,1,1,1] w) => (double[1,1,4,4] y) { y = Conv(x, w) }"
        with pytest.raises(ModelError, match=r"at node .*\(Conv\)") as caught:
            Session(model(HEADER + text))
        assert "float64" in caught.value.hint

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("Gemm(x", "Foo(x", "at node 'fc' (Foo): "),
            ("float[N,3] x", "float[N,7] x", "at node 'fc' (Gemm): "),
            ("float[N,3] x", "bool[N,3] x", "node (fc)"),
            ('"" : 17', '"" : 99', "Opset 99 is under development"),
            ("ir_version: 8", "ir_version: 99", "Unsupported model IR version: 99"),
            ("Gemm(x", "Gemm(nowhere", "'nowhere'"),
        ],
    )
    def test_models_that_cannot_be_loaded(
        self, old: str, new: str, words: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ModelError, match=r"onnxruntime cannot (load|run) model 'linear'") as caught:
            Session(model(LINEAR.replace(old, new))).run({"x": np.zeros((1, 7), np.float32)})
        assert words in caught.value.message
        assert "onnxruntime_src" not in caught.value.message
        assert capfd.readouterr().err == ""

    def test_external_data_that_was_not_loaded(self, tmp_path: Path) -> None:
        onnx.save(convnet(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
        with pytest.raises(ModelError, match="not loaded"):
            Session(onnx.load(tmp_path / "m.onnx", load_external_data=False))

    def test_types_numpy_does_not_know(self) -> None:
        text = HEADER + "g (bfloat16[2] x) => (bfloat16[2] y) { y = Identity(x) }"
        with pytest.raises(ModelError, match=r"'x' is of type tensor\(bfloat16\)"):
            Session(model(text))

    def test_a_missing_onnxruntime_has_a_hint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModelError) as caught:
            Session(model(LINEAR))
        assert 'pip install "onnxprune[cpu]"' in caught.value.hint

    def test_runtime_info(self) -> None:
        info = runtime.runtime_info()
        assert info.package.startswith("onnxruntime")
        assert info.version[0].isdigit()
        assert "CPUExecutionProvider" in info.providers


class TestWeightSession:
    @pytest.mark.parametrize("optimize", [True, False])
    @pytest.mark.parametrize("width", [4, 1024])  # weights inside the message, and beside it
    def test_feeding_masked_weights_is_running_the_masked_model(self, width: int, optimize: bool) -> None:
        proto = convnet(width)
        names = ["w1", "s1", "b1", "w2"]
        session = WeightSession(proto, names, optimize=optimize)
        assert sorted(w.name for w in session.weights) == sorted(names)
        assert [i.name for i in session.inputs] == ["x"]
        masked, fed = proto, {}
        for name in names:
            fed[name] = array(proto, name)
            np.moveaxis(fed[name], 1 if name == "w2" else 0, 0)[::2] = 0
            masked = with_array(masked, name, fed[name])
        expected = Session(masked, optimize=optimize).run(image())["y"]
        np.testing.assert_allclose(session.run({**image(), **fed})["y"], expected, rtol=2e-5, atol=2e-5)
        plain = Session(proto, optimize=optimize).run(image())["y"]
        assert np.abs(plain - expected).max() > 0.01
        np.testing.assert_allclose(session.run(image())["y"], plain, rtol=2e-5, atol=2e-5)

    def test_old_files_that_list_every_initializer_as_input(self) -> None:
        proto = convnet(ir=3, listed=", float[64,3,3,3] w1, float[64] s1")
        session = WeightSession(proto, ["w1"])
        assert [w.name for w in session.weights] == ["w1"]
        np.testing.assert_array_equal(
            session.run({**image(), "w1": array(proto, "w1") * 0})["y"].std(axis=0), 0
        )

    def test_constant_nodes_can_be_fed(self) -> None:
        proto = model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)'
            " { w = Constant<value = float[2] {1, 2}>() y = Mul(x, w) }"
        )
        session = WeightSession(proto, ["w"])
        x = np.float32([3, 3])
        np.testing.assert_array_equal(session.run({"x": x})["y"], [3, 6])
        np.testing.assert_array_equal(session.run({"x": x, "w": np.float32([0, 1])})["y"], [0, 3])

    def test_only_constants_can_be_fed(self) -> None:
        with pytest.raises(ModelError, match="no constant tensor 'c1'"):
            WeightSession(convnet(), ["c1"])


class TestSampleFeeds:
    SPECS = (
        TensorSpec("image", np.dtype(np.float32), ("N", 3, "h", "w")),
        TensorSpec("mask", np.dtype(np.bool_), ("N", "h", None)),
        TensorSpec("ids", np.dtype(np.int64), ("N", 200)),
        TensorSpec("rate", np.dtype(np.int32), ()),
    )

    def test_shapes_and_types(self) -> None:
        feeds = sample_feeds(
            self.SPECS, shapes={"image": (2, 3, 32, 48)}, batch=5, samples=3, highs={"ids": 9}
        )
        assert len(feeds) == 3
        first = feeds[0]
        assert {k: (v.dtype.name, v.shape) for k, v in first.items()} == {
            "image": ("float32", (2, 3, 32, 48)),
            "mask": ("bool", (2, 32, 64)),
            "ids": ("int64", (2, 200)),
            "rate": ("int32", ()),
        }
        assert set(np.unique(first["ids"])) == set(range(9))
        assert set(np.unique(first["mask"])) == {False, True}
        assert abs(first["image"].mean()) < 0.05
        assert abs(first["image"].std() - 1) < 0.05
        assert not np.array_equal(first["image"], feeds[1]["image"])

    def test_the_seed_decides(self) -> None:
        one, same, other = (sample_feeds(self.SPECS, seed=s)[0]["image"] for s in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_open_axes_get_the_batch_or_a_default(self) -> None:
        spec = TensorSpec("x", np.dtype(np.float32), (None, "N", 3))
        other = TensorSpec("z", np.dtype(np.float32), ("N", "k"))
        feed = sample_feeds([spec, other], batch=7)[0]
        assert feed["x"].shape == (7, 7, 3)
        assert feed["z"].shape == (7, 64)

    def test_a_question_mark_is_no_name(self) -> None:
        proto = convnet()
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        dims[0].dim_value, dims[2].dim_param, dims[3].dim_param = -1, "?", "?"  # as paddle2onnx writes
        feeds = sample_feeds(Session(proto).inputs, shapes={"x": (1, 3, 48, 192)})
        assert feeds[0]["x"].shape == (1, 3, 48, 192)

    @pytest.mark.parametrize(
        ("shapes", "words"),
        [
            ({"picture": (1, 3, 8, 8)}, "'picture', which is not an input"),
            ({"image": (1, 4, 8, 8)}, "does not fit the input image"),
            ({"image": (1, 3, 8)}, "does not fit"),
            ({"image": (1, 3, 0, 8)}, "does not fit"),
            ({"image": (1, 3, 8, 8), "mask": (1, 9, 2)}, "does not fit the input mask"),
        ],
    )
    def test_shapes_that_contradict_the_model(self, shapes: dict[str, tuple[int, ...]], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            sample_feeds(self.SPECS, shapes=shapes)

    def test_strings_are_short_words(self) -> None:
        (feed,) = sample_feeds([TensorSpec("text", np.dtype(object), ("N",))], batch=5)
        assert feed["text"].shape == (5,)
        assert all(isinstance(word, str) for word in feed["text"])

    def test_complex_numbers_are_not_made_up(self) -> None:
        with pytest.raises(ModelError, match="wave complex64"):
            sample_feeds([TensorSpec("wave", np.dtype(np.complex64), ("N",))])


FLOATS = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=4),
    elements=st.floats(-100, 100, width=32, allow_nan=False),
)


class TestCompare:
    def test_equal_models_agree_exactly(self) -> None:
        agreement = compare(Session(convnet()), Session(convnet()), [image(s) for s in range(3)])
        assert agreement.max_rel_error == agreement.max_abs_error == 0
        assert agreement.samples == 3
        assert agreement.reason == ""

    def test_the_worst_feed_and_output_count(self) -> None:
        text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] a, float[2] b) {{ {} }}'
        one = Session(model(text.format("a = Neg(x) b = Abs(x)")))
        two = Session(model(text.format("a = Neg(x) b = Neg(x)")))
        agreement = compare(one, two, [{"x": np.float32([-1, -1])}, {"x": np.float32([4, -1])}])
        assert agreement.per_output["a"].max_rel_error == 0
        assert agreement.per_output["b"].max_rel_error == agreement.max_rel_error == 2
        assert agreement.max_abs_error == 8

    def test_shapes_and_missing_outputs(self) -> None:
        text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[{}] {y}) {{ {y} = {op} }}'
        one = Session(model(text.format(2, y="y", op="Neg(x)")))
        two = Session(model(text.format(4, y="y", op="Concat<axis = 0>(x, x)")))
        three = Session(model(text.format(2, y="z", op="Neg(x)")))
        feeds = [{"x": np.float32([1, 2])}]
        assert compare(one, two, feeds).reason == "output 'y': shape [4] instead of [2]"
        assert compare(one, two, feeds).max_rel_error == np.inf
        assert compare(one, three, feeds).reason == "output 'y': the candidate has no such output"

    def test_no_samples_is_not_agreement(self) -> None:
        with pytest.raises(DataError, match="no samples"):
            compare(Session(convnet()), Session(convnet()), [])

    @given(FLOATS)
    @settings(max_examples=50, deadline=None)
    def test_a_tensor_agrees_with_itself(self, a: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        a.flat[0] = np.nan
        a.flat[-1] = np.inf
        assert difference(a, a.copy()).max_rel_error == 0

    @given(FLOATS, st.floats(0.125, 8, width=16))
    @settings(max_examples=50, deadline=None)
    def test_the_error_does_not_depend_on_the_scale(
        self, a: np.ndarray[Any, np.dtype[np.float32]], factor: float
    ) -> None:
        a.flat[0] = 1
        b = a[..., ::-1].copy()
        expected = np.abs(a.astype(float) - b).max() / np.abs(a).max()
        assert difference(a, b).max_rel_error == pytest.approx(expected, rel=1e-12)
        wide = difference(a.astype(float) * factor, b.astype(float) * factor)
        assert wide.max_rel_error == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(
        ("a", "b", "rel", "absolute"),
        [
            ([0.0, 0.0], [0.0, 0.0], 0, 0),
            ([0.0, 0.0], [0.0, 0.5], np.inf, 0.5),
            ([np.nan, 2.0], [np.nan, 1.0], 0.5, 1),
            ([np.nan, 2.0], [1.0, 2.0], np.inf, np.inf),
            ([np.inf, 2.0], [np.inf, 2.0], 0, 0),
            ([np.inf, 2.0], [-np.inf, 2.0], np.inf, np.inf),
            ([1, 2], [1, 2], 0, 0),
            ([1, 2], [1, 5], np.inf, 3),
            ([True, False], [True, True], np.inf, 1),
            (["a"], ["b"], np.inf, np.inf),
        ],
    )
    def test_special_values(self, a: list[Any], b: list[Any], rel: float, absolute: float) -> None:
        found = difference(np.array(a), np.array(b))
        assert (found.max_rel_error, found.max_abs_error) == (rel, absolute)
        assert bool(found.reason) == np.isinf(rel)

    def test_float16_does_not_overflow(self) -> None:
        found = difference(np.float16([60000]), np.float16([-60000]))
        assert found.max_rel_error == pytest.approx(2)

    def test_empty_tensors_agree(self) -> None:
        assert difference(np.zeros((0, 3)), np.zeros((0, 3))).max_rel_error == 0
        assert difference(np.zeros((0, 3)), np.zeros((0, 4))).max_rel_error == np.inf


class TestLatency:
    @pytest.mark.slow
    def test_the_smaller_model_is_faster(self) -> None:
        feeds = {"x": np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)}
        small, large = measure_latency([convnet(16), convnet(512)], feeds, rounds=15, warmup=2, threads=1)
        assert 0 < small.min_ms <= small.median_ms <= small.p90_ms
        assert small.rounds == 15
        assert large.median_ms > 4 * small.median_ms

    def test_one_feed_for_each_model(self) -> None:
        each = measure_latency(
            [model(LINEAR), convnet()], [{"x": np.zeros((1, 3), np.float32)}, image()], rounds=1
        )
        assert len(each) == 2
        with pytest.raises(UsageError, match="1 models cannot be timed with 2 feeds"):
            measure_latency([convnet()], [image(), image()])

    def test_no_rounds(self) -> None:
        with pytest.raises(UsageError, match="0 rounds"):
            measure_latency([convnet()], image(), rounds=0)


def test_memory_that_does_not_suffice_is_told_in_words():
    """The names of exceptions of C++ in a message of the runtime are replaced."""
    error = sessions._refusal(
        "cannot load the model", RuntimeError("Node (split) Op (Split) std::bad_alloc"), "another export"
    )
    assert isinstance(error, LimitError)
    assert "bad_alloc" not in str(error)
    assert "memory does not suffice" in str(error)


def _resident() -> int:
    """Return the resident memory of this process, in bytes."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_sessions_for_comparisons_keep_no_memory_after_a_run() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N] x) => (float y) {
            a = Exp(x) b = Mul(a, x) c = Add(a, b) y = ReduceMax<keepdims = 0>(c)
        }
    """
    session = Session(onnx.parser.parse_model(text), optimize=False)
    session.run({"x": np.zeros(8, np.float32)})
    feed = {"x": np.zeros(1 << 25, np.float32)}  # tensors of 128 MiB
    before = _resident()
    session.run(feed)
    assert _resident() - before < 1 << 26


def test_normalisation_is_folded_before_integers(tmp_path: Path) -> None:
    """It would stay a float operator between two roundings: larger, slower and less exact."""
    text = """g (float[N,2,6,6] x) => (float[N,4,6,6] y) {
        c = Conv<pads = [1,1,1,1]>(x, w)
        n = BatchNormalization(c, s, s, s, s)
        y = Relu(n)
    }"""
    proto, random = model(HEADER + text), np.random.default_rng(0)
    weights = {"w": random.normal(size=(4, 2, 3, 3)), "s": np.ones(4)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()
    )
    x = random.normal(size=(8, 2, 6, 6)).astype(np.float32)
    made = quantised(proto, [{"x": x}], tmp_path)
    assert {node.op_type for node in made.graph.node} == {"QuantizeLinear", "DequantizeLinear", "Conv"}
    (before,), (after,) = (Session(m).run({"x": x}).values() for m in (proto, made))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()
